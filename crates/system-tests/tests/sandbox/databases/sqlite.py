"""Transfers between accounts in SQLite, without end; and a look at what a crash left of them."""
import os
import sqlite3
import sys

ACCOUNTS, BALANCE = 32, 1000


def write(path, mode, told):
    """Each transaction moves an amount, and keeps a line of it that fills pages. What was committed is told on a tmpfs."""
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.execute(f"PRAGMA journal_mode={mode}")
    # A commit that has returned is on the disk.
    db.execute("PRAGMA synchronous=FULL")
    # Often enough that snapshots meet it.
    db.execute("PRAGMA wal_autocheckpoint=50")
    db.execute("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
    db.execute("CREATE TABLE IF NOT EXISTS line (n INTEGER PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER, filler)")
    accounts = [(number, BALANCE) for number in range(ACCOUNTS)]
    db.executemany("INSERT OR IGNORE INTO account VALUES (?, ?)", accounts)
    (n,) = db.execute("SELECT coalesce(max(n), 0) FROM line").fetchone()
    acknowledged = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    while True:
        n += 1
        source, target, amount = n % ACCOUNTS, (n * 7 + 3) % ACCOUNTS, n % 13
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, source))
        db.execute("INSERT INTO line VALUES (?, ?, ?, ?, ?)", (n, source, target, amount, os.urandom(9000)))
        db.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, target))
        db.execute("DELETE FROM line WHERE n % 1000 <> 0 AND n < ?", (n - 400,))
        db.execute("COMMIT")
        os.pwrite(acknowledged, b"%012d" % n, 0)


def check(path, _mode, least):
    """The file recovers; nothing that was committed by then is missing, and no transaction is there in part."""
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    (last,) = db.execute("SELECT max(n) FROM line").fetchone()
    assert last >= int(least), f"{last} was reached, {least} had been acknowledged"
    kept = [n for (n,) in db.execute("SELECT n FROM line WHERE n >= ? ORDER BY n", (max(1, last - 400),))]
    assert kept == list(range(max(1, last - 400), last + 1)), "a line is missing"
    expected = [BALANCE] * ACCOUNTS
    for n in range(1, last + 1):
        expected[n % ACCOUNTS] -= n % 13
        expected[(n * 7 + 3) % ACCOUNTS] += n % 13
    found = [balance for (balance,) in db.execute("SELECT balance FROM account ORDER BY id")]
    assert found == expected, "a transaction is there in part"
    print(last)


{"write": write, "check": check}[sys.argv[1]](*sys.argv[2:])
