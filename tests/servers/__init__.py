"""The S3 servers that the tests talk to: one scripted, which lies on command, and rclone's, which others wrote."""
