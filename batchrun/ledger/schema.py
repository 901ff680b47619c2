"""The ledger's tables, and what brings those of an older batchrun up to date.

outcome    rows of parts that are not written yet     part       written parts and the digests of their files
grouped    the same, several rows in one              replacing  parts whose file is just being put in place
tries      what pending rows have cost so far         reopened   rows of written parts that are sent again
totals     sums over all attempts                     spent      what each minute of the last day used
meta       named texts
"""

from __future__ import annotations

from collections.abc import Mapping

from batchrun.events import TOTAL_NAMES

SCHEMA_VERSION = 4
APPLICATION_ID = 0x62726C67  # "brlg"
SPENT = "CREATE TABLE spent (minute INTEGER PRIMARY KEY, requests INTEGER NOT NULL, tokens INTEGER NOT NULL);"
OUTCOME = "CREATE TABLE outcome (row INTEGER PRIMARY KEY, packed BLOB NOT NULL);"
GROUPED = "CREATE TABLE grouped (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, packed BLOB NOT NULL);"
SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
{OUTCOME}
{GROUPED}
CREATE TABLE tries (row INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE part (part INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE replacing (part INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE reopened (
    row INTEGER PRIMARY KEY, status TEXT NOT NULL, error_class TEXT, unpriced INTEGER NOT NULL
);
{SPENT}
CREATE TABLE totals ({", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in (*TOTAL_NAMES, "dearest_nanousd"))});
INSERT INTO totals DEFAULT VALUES;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_FROM_1 = f"""
{SPENT}
ALTER TABLE totals ADD COLUMN held_nanousd INTEGER NOT NULL DEFAULT 0;
ALTER TABLE totals ADD COLUMN uncosted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE totals ADD COLUMN dearest_nanousd INTEGER NOT NULL DEFAULT 0;
UPDATE totals SET uncosted = maybe_billed;
"""  # noqa: S608 - our own text
_FROM_2 = f"""
ALTER TABLE outcome RENAME TO outcome_2;
{OUTCOME}
INSERT INTO outcome SELECT row, packed FROM outcome_2;
DROP TABLE outcome_2;
"""  # noqa: S608 - our own text
_FROM_3 = f"{GROUPED} PRAGMA user_version = {SCHEMA_VERSION};"
UPGRADES: Mapping[int, str] = {1: _FROM_1 + _FROM_2 + _FROM_3, 2: _FROM_2 + _FROM_3, 3: _FROM_3}
"""What brings the tables of an older version up to date."""
