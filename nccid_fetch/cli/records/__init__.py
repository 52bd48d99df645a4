"""What a command keeps besides what it says: a log, a stream of events, metrics, and a word to whoever waits for its end."""
