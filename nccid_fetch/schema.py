"""The journal's tables, as SQL: of today, and what makes them of those of earlier versions. `journal` says what they mean."""

VERSION = 3

SCHEMA = """
CREATE TABLE identity (bucket TEXT NOT NULL, group_name TEXT NOT NULL, endpoint TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE folder (id INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE);
CREATE TABLE object (
    folder INTEGER NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, etag NOT NULL,
    modified INTEGER NOT NULL, verified_by INTEGER NOT NULL, unflushed INTEGER NOT NULL DEFAULT 0,
    mtime INTEGER, PRIMARY KEY (folder, name)
) WITHOUT ROWID;
CREATE TABLE failure (key TEXT PRIMARY KEY, reason TEXT NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE twin (folded TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE run (id INTEGER PRIMARY KEY, command TEXT NOT NULL, started TEXT NOT NULL, ended TEXT);
CREATE TABLE unflushed (run INTEGER PRIMARY KEY, boot TEXT, failed INTEGER NOT NULL);
CREATE VIEW objects AS SELECT
    prefix || name AS key, size, iif(typeof(etag) = 'blob', lower(hex(etag)), etag) AS etag,
    strftime('%Y-%m-%dT%H:%M:%SZ', modified / 1000, 'unixepoch') AS modified,
    CASE verified_by WHEN 1 THEN 'md5' WHEN 2 THEN 'multipart_md5' WHEN 3 THEN 'checksum' ELSE 'size' END AS verified_by
    FROM object JOIN folder ON folder.id = object.folder;
"""

MIGRATION = {
    1: """
ALTER TABLE object ADD COLUMN unflushed INTEGER NOT NULL DEFAULT 0;
CREATE TABLE unflushed (run INTEGER PRIMARY KEY, boot TEXT, failed INTEGER NOT NULL);
""",
    2: """
ALTER TABLE object ADD COLUMN mtime INTEGER;
""",
}
"""What makes the next version of each earlier one."""

LISTING = """
CREATE TABLE IF NOT EXISTS listing (
    part TEXT PRIMARY KEY, objects INTEGER NOT NULL, bytes INTEGER NOT NULL, ended TEXT NOT NULL,
    is_whole INTEGER NOT NULL, endpoint TEXT NOT NULL
) WITHOUT ROWID
"""
"""Came later and needs no version of its own: a tool that does not know it passes it over, and nothing else refers to it."""
