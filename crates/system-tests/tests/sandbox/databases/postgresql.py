"""A PostgreSQL server of the test's own; transfers without end by two clients; and a look at what a crash left of them."""
import os
import subprocess
import sys
import threading

PROGRAMS, HOME = "/usr/lib/postgresql/15/bin", "/var/lib/mote-test"
DATA, ACCOUNTS, BALANCE, CLIENTS = f"{HOME}/data", 32, 1000, 2
os.environ.update(PGHOST=HOME, PGDATABASE="postgres")


def run(program, *arguments):
    done = subprocess.run([f"{PROGRAMS}/{program}", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{program} {arguments}: {done.stdout}\n{log()}"
    return done.stdout


def log():
    try:
        return open(f"{HOME}/log").read()
    except FileNotFoundError:
        return ""


def query(text):
    return run("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", text).strip()


def server():
    # The number in it may be another process's by now, as after any restart of a machine.
    if os.path.exists(f"{DATA}/postmaster.pid"):
        os.unlink(f"{DATA}/postmaster.pid")
    options = f"-c listen_addresses= -c unix_socket_directories={HOME} -c shared_buffers=16MB -c max_wal_size=32MB " \
        "-c checkpoint_timeout=30s -c max_connections=10 -c autovacuum_naptime=1s"
    run("pg_ctl", "--pgdata", DATA, "--log", f"{HOME}/log", "--wait", "--timeout", "300", "--options", options, "start")


def make():
    run("initdb", "--pgdata", DATA, "--auth", "trust", "--data-checksums", "--no-sync", "--no-locale", "--encoding", "UTF8")
    server()
    query("CREATE EXTENSION amcheck; CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL);"
          f"INSERT INTO account SELECT id, {BALANCE} FROM generate_series(0, {ACCOUNTS} - 1) id;"
          "CREATE TABLE line (client int, n int, source int, target int, amount int, filler text, PRIMARY KEY (client, n))")


def client(number):
    """One after the other, each told on a tmpfs once the server has acknowledged it."""
    n = int(query(f"SELECT coalesce(max(n), 0) FROM line WHERE client = {number}"))
    psql = subprocess.Popen([f"{PROGRAMS}/psql", "-qAtX", "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
    told = os.open(f"/dev/shm/postgresql-{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    while True:
        n += 1
        source, target, amount = sorted((n % ACCOUNTS, (n * 7 + 3) % ACCOUNTS)) + [n % 13]
        psql.stdin.write(
            f"BEGIN; UPDATE account SET balance = balance - {amount} WHERE id = {source};"
            f"INSERT INTO line VALUES ({number}, {n}, {source}, {target}, {amount}, repeat(md5('{n}'), 60));"
            f"UPDATE account SET balance = balance + {amount} WHERE id = {target}; COMMIT;\n\\echo {n}\n")
        psql.stdin.flush()
        answer = psql.stdout.readline()
        assert answer == f"{n}\n", f"{answer!r}\n{log()}"
        os.pwrite(told, b"%012d" % n, 0)


def write():
    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()


def check(*least):
    """The server recovers; nothing that was committed by then is missing, no transaction is there in part, no page is torn."""
    server()
    reached = []
    for number in range(CLIENTS):
        count, last = query(f"SELECT count(*), coalesce(max(n), 0) FROM line WHERE client = {number}").split("|")
        assert count == last, f"of {last} transactions of client {number}, {count} are there"
        assert int(last) >= int(least[number]), f"{last} was reached, {least[number]} had been acknowledged"
        reached.append(last)
    wrong = query("SELECT id FROM (SELECT id, balance, "
                  f"{BALANCE} - (SELECT coalesce(sum(amount), 0) FROM line WHERE source = id)"
                  " + (SELECT coalesce(sum(amount), 0) FROM line WHERE target = id) AS expected FROM account) a"
                  " WHERE balance <> expected")
    assert wrong == "", f"a transaction is there in part: account {wrong}"
    assert query("SELECT sum(balance) FROM account") == str(ACCOUNTS * BALANCE)
    run("pg_amcheck", "--heapallindexed", "postgres")
    run("pg_ctl", "--pgdata", DATA, "--wait", "--mode", "fast", "stop")
    run("pg_checksums", "--pgdata", DATA, "--check")
    print(*reached)


{"make": make, "start": server, "write": write, "check": check}[sys.argv[1]](*sys.argv[2:])
