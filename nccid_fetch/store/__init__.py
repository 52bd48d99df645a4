"""The network: one session, a strict listing, and two ways to read bodies behind one protocol."""
