"""What is compared: each starts at three sites, says when it is ready, and where its active side is looked for."""
import base64
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import time

from net import SITES, run

BIN = "/usr/lib/postgresql/15/bin"
COPIES = ("a", "b")
# The same for all; whom commits wait for is set by each of them.
PARAMETERS = {
    "shared_buffers": "16MB", "max_connections": "100", "wal_level": "replica", "max_wal_senders": "10",
    "wal_keep_size": "256MB", "hot_standby": "on", "synchronous_commit": "on", "wal_sender_timeout": "4s",
    "wal_receiver_timeout": "4s", "wal_receiver_status_interval": "1s", "wal_retrieve_retry_interval": "500ms",
}


def wait_for(what, seconds, look):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"not within {seconds} s: {what}")


class System:
    """`net`: its namespaces. `folder`: its files; PostgreSQL's user may enter it."""

    has_rows = True

    def __init__(self, net, folder):
        self.net, self.folder = net, pathlib.Path(folder)
        self.user = pwd.getpwnam("postgres") if self.has_rows else None
        for site in SITES:
            self.make(self.folder / site)

    def make(self, path, owned=True):
        path.mkdir(parents=True, exist_ok=True)
        if self.user and owned:
            shutil.chown(path, self.user.pw_uid, self.user.pw_gid)
        return path

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        return path

    def socket(self, site):
        """libpq: the server of a site, from outside of all namespaces."""
        return f"host={self.folder / site} port=5432 user=postgres dbname=postgres connect_timeout=2"

    def servers(self):
        return [f"host={self.net.address(site)} port=5432 user=postgres dbname=postgres password=x" for site in COPIES]

    def query(self, site, text):
        done = run("timeout", "3", f"{BIN}/psql", "-XAtq", "-d", self.socket(site), "-c", text, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def keep(self, site, name, command, user=None, **environment):
        """As an init system does: what ends is started again."""
        loop = 'while :; do "$@"; sleep 0.3; done'
        environment = {**os.environ, **environment}
        self.net.popen(site, ["/bin/sh", "-c", loop, "keep"] + command, self.folder / f"{site}-{name}.log", user, env=environment)

    def in_sync(self):
        """The site whose server is active with a synchronous standby."""
        for site in COPIES:
            if self.query(site, "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync','quorum')") == "1":
                return site
        return None

    def make_table(self):
        site = wait_for("an active server with its standby", 90, self.in_sync)
        wait_for("the table", 20, lambda: self.query(site, "CREATE TABLE IF NOT EXISTS entries (id bigint PRIMARY KEY)") is not None)


class Bcp(System):
    """bcp-fleet: collectors at a, b and w, gates at a and b, each site's own broker."""

    def __init__(self, net, folder, fleet, timing):
        super().__init__(net, folder)
        self.fleet, self.timing = str(fleet), timing
        self.name = f"bcp-fleet, {timing}"

    def certificates(self):
        pki = self.make(self.folder / "pki", owned=False)
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", "/CN=comparison", "-keyout", pki / "ca.key", "-out", pki / "ca.pem")
        names = [f"collector:{site}" for site in SITES] + [f"agent:{site}:host-{site}" for site in SITES] + ["operator:op-1"]
        for name in names:
            stem = pki / name.replace(":", "-")
            run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x",
                "-keyout", f"{stem}.key", "-out", f"{stem}.csr")
            hosts = ",".join(f"IP:{self.net.address(site)}" for site in SITES)
            extensions = self.write(f"pki/{stem.name}.ext",
                f"subjectAltName=URI:{name},IP:127.0.0.1,{hosts}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n")
            run("openssl", "x509", "-req", "-in", f"{stem}.csr", "-CA", pki / "ca.pem", "-CAkey", pki / "ca.key",
                "-CAcreateserial", "-days", "30", "-extfile", extensions, "-out", f"{stem}.pem")

    def credentials(self, name):
        stem = self.folder / "pki" / name.replace(":", "-")
        return f'{{ ca = "{self.folder}/pki/ca.pem", cert = "{stem}.pem", key = "{stem}.key" }}'

    def publishing_keys(self):
        keys = {}
        for site in SITES:
            path = self.folder / "pki" / f"publish-{site}.key"
            run("openssl", "genpkey", "-algorithm", "ed25519", "-out", path)
            public = subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-outform", "DER"], check=True, capture_output=True)
            keys[site] = base64.b64encode(public.stdout[-32:]).decode()
        return keys

    def each(self, sites, port, scheme):
        return "{ " + ", ".join(f'{site} = "{scheme}{self.net.address(site)}:{port}"' for site in sites) + " }"

    def configure(self):
        self.certificates()
        keys = self.publishing_keys()
        known = ", ".join(f'{site} = "{key}"' for site, key in keys.items())
        self.write("policy.toml", f"""timing = "{self.timing}"
[ticket.db]
service = "db"
kind = "active-passive"
mode = "auto"
sites = ["a", "b"]
preferred = "a"
rpo = "zero"
move_when = ["site_lost(holder)", "service_down(holder) for 30s"]
loss = "stop"
gates = {{ a = ["host-a"], b = ["host-b"] }}
accept_unfenced = true
confirm_within = "5m"
cooldown = "1h"
stable_for = "30m"
move_budget = 2
[service.db]
title = {{ en = "Database" }}
ticket = "db"
""")
        for site in SITES:
            others = [other for other in SITES if other != site]
            self.write(f"{site}.collector.toml", f"""site = "{site}"
data_dir = "{self.folder}/{site}-collector"
policy = "{self.folder}/policy.toml"
[listen]
public = "127.0.0.1:8000"
console = "127.0.0.1:8001"
control = "{self.net.address(site)}:8002"
[mqtt]
brokers = {self.each(SITES, 1883, "")}
[control]
credentials = {self.credentials(f"collector:{site}")}
peers = {self.each(others, 8002, "https://")}
[public]
key = "{self.folder}/pki/publish-{site}.key"
known_keys = {{ {known} }}
""")
            agent = f"""site = "{site}"
agent = "host-{site}"
state_dir = "{self.folder}/{site}-agent"
[host]
id = "srv-{site}"
location = "{site}/room"
interval = "5s"
[mqtt]
broker = "127.0.0.1:1883"
[spool]
max_bytes = 67108864
max_age = "72h"
fsync = "200ms"
"""
            self.write(f"{site}.agent.toml", agent + (self.gate(site) if site in COPIES else ""))
            self.write(f"{site}.mosquitto.conf", "listener 1883 0.0.0.0\nallow_anonymous true\npersistence false\nuser root\nlog_type error\n")

    def gate(self, site):
        other = "b" if site == "a" else "a"
        step, fast_stop = ("1050ms", "200ms") if self.timing == "fast" else ("3s", "700ms")
        return f"""[gate]
listen = "{self.net.address(site)}:8010"
runtime_dir = "{self.folder}/{site}-run"
credentials = {self.credentials(f"agent:{site}:host-{site}")}
collectors = {self.each(SITES, 8002, "https://")}
peers = [ {{ site = "{other}", id = "host-{other}", url = "https://{self.net.address(other)}:8010" }} ]
timing = "{self.timing}"
[[gate.ticket]]
id = "db"
loss = "stop"
step_timeout = "{step}"
facts_url = "http://127.0.0.1:8016/facts"
sync_url = "http://127.0.0.1:8016/sync"
[[gate.ticket.actuators]]
kind = "postgres"
data_dir = "{self.folder}/{site}/data"
config_file = "{self.folder}/{site}/site.conf"
socket_dir = "{self.folder}/{site}"
port = 5432
runtime_dir = "{self.folder}/{site}-run"
state_dir = "{self.folder}/{site}-state"
own_name = "copy_{site}"
peer_name = "copy_{other}"
peer = "host={self.net.address(other)} port=5432 user=postgres connect_timeout=3"
copy_listen = "127.0.0.1:8016"
fast_stop = "{fast_stop}"
peer_patience = "1s"
"""

    def seed(self):
        """Both as restored from one backup; each would come up as a standby."""
        first = self.folder / "a" / "data"
        as_user = ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups"]
        run(*as_user, f"{BIN}/initdb", "-k", "-N", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D", first, cwd="/")
        for site in COPIES:
            settings = dict(PARAMETERS, listen_addresses="*", port="5432", unix_socket_directories=str(self.folder / site),
                            data_directory=str(self.folder / site / "data"), hba_file=str(self.folder / "hba.conf"))
            self.write(f"{site}/site.conf", "".join(f"{key} = '{value}'\n" for key, value in settings.items()))
            self.make(self.folder / f"{site}-state", owned=False)
            self.make(self.folder / f"{site}-run", owned=False)
        self.write("hba.conf", "local all all trust\nhost all all 10.77.0.0/16 trust\nhost replication all 10.77.0.0/16 trust\n")
        run(*as_user, "touch", first / "standby.signal")
        run("cp", "-a", first, self.folder / "b" / "data")

    def start(self):
        self.configure()
        self.seed()
        for site in SITES:
            self.start_site(site)
        self.make_table()
        wait_for("the log to know it", 60, lambda: self.ticket().get("can_failover_now", {}).get("ok"))

    def start_site(self, site):
        self.keep(site, "broker", ["mosquitto", "-c", self.folder / f"{site}.mosquitto.conf"])
        config = ["--config", self.folder / f"{site}.collector.toml"]
        self.keep(site, "collector", [self.fleet, "collector", "run"] + config, BCP_SELF_ARGS="collector")
        config = ["--config", self.folder / f"{site}.agent.toml"]
        self.keep(site, "agent", [self.fleet, "agent", "run"] + config)
        if site in COPIES:
            self.keep(site, "warden", [self.fleet, "agent", "warden"] + config)
            self.keep(site, "copy", [self.fleet, "agent", "postgres-copy", "--ticket", "db"] + config)

    def ticket(self):
        done = run("ip", "netns", "exec", self.net.space("w"), "curl", "-s", "-m", "2", "http://127.0.0.1:8001/api/v1/tickets", check=False)
        try:
            return next(ticket for ticket in json.loads(done.stdout)["tickets"] if ticket["id"] == "db")
        except (ValueError, KeyError, StopIteration):
            return {}


class Etcd(System):
    """Three members of etcd; the base of the others."""

    def start_etcd(self, site):
        own = self.net.address(site)
        cluster = ",".join(f"{other}=http://{self.net.address(other)}:2380" for other in SITES)
        self.keep(site, "etcd", [
            "etcd", "--name", site, "--data-dir", self.folder / f"{site}-etcd", "--listen-peer-urls", f"http://{own}:2380",
            "--initial-advertise-peer-urls", f"http://{own}:2380", "--listen-client-urls", f"http://{own}:2379",
            "--advertise-client-urls", f"http://{own}:2379", "--initial-cluster", cluster, "--logger", "zap", "--log-level", "error"])

    def endpoints(self):
        return ",".join(f"{self.net.address(site)}:2379" for site in SITES)

    def wait_for_etcd(self):
        def healthy():
            command = ["etcdctl", "--endpoints", self.endpoints(), "endpoint", "health"]
            return run("ip", "netns", "exec", self.net.space("c"), *command, check=False, env=dict(os.environ, ETCDCTL_API="3")).returncode == 0
        wait_for("etcd", 40, healthy)


class Patroni(Etcd):
    """Patroni at a and b over etcd, synchronous mode."""

    def __init__(self, net, folder, ttl, loop_wait, retry):
        super().__init__(net, folder)
        self.numbers = {"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry}
        self.name = f"Patroni {ttl}/{loop_wait}/{retry}"

    def configure(self, site):
        own = self.net.address(site)
        access = ["local all all trust", "host all all 10.77.0.0/16 trust", "host replication all 10.77.0.0/16 trust"]
        return self.write(f"{site}.patroni.yml", json.dumps({
            "scope": "compare", "name": f"copy_{site}",
            "restapi": {"listen": f"{own}:8008", "connect_address": f"{own}:8008"},
            "etcd3": {"hosts": [f"{self.net.address(other)}:2379" for other in SITES]},
            "bootstrap": {
                "dcs": {**self.numbers, "synchronous_mode": True, "postgresql": {"use_pg_rewind": True, "parameters": PARAMETERS}},
                "initdb": ["data-checksums", {"encoding": "UTF8"}, {"locale": "C"}, "no-sync"], "pg_hba": access},
            "postgresql": {
                "listen": f"{own}:5432", "connect_address": f"{own}:5432", "data_dir": str(self.folder / site / "data"),
                "bin_dir": BIN, "pgpass": str(self.folder / site / "pgpass"), "pg_hba": access,
                "parameters": {"unix_socket_directories": str(self.folder / site)},
                "authentication": {"superuser": {"username": "postgres", "password": "x"},
                                   "replication": {"username": "replica", "password": "x"},
                                   "rewind": {"username": "rewinder", "password": "x"}}}}, indent=1))

    def start(self):
        for site in SITES:
            self.start_etcd(site)
        self.wait_for_etcd()
        for site in COPIES:
            self.start_patroni(site)
            # The first begins at a, as everywhere.
            wait_for("the first server", 60, lambda: self.query("a", "SELECT pg_is_in_recovery()") == "f")
        self.make_table()

    def start_patroni(self, site):
        self.keep(site, "patroni", ["patroni", self.configure(site)], user="postgres", HOME=str(self.folder / site))

    def start_site(self, site):
        self.start_etcd(site)
        if site in COPIES:
            self.start_patroni(site)


class Lock(Etcd):
    """A lock with a lease of 1 s, and a holder that believes etcdctl."""

    has_rows = False
    name = "etcd lock, TTL 1 s"

    def start(self):
        for site in SITES:
            self.start_etcd(site)
        self.wait_for_etcd()
        for site in COPIES:
            self.start_holder(site)
            wait_for("the first holder", 20, lambda: (self.folder / "a.active").exists() and (self.folder / "a.active").stat().st_size)

    def start_holder(self, site):
        # Its own member first.
        ends = ",".join(f"{self.net.address(s)}:2379" for s in sorted(SITES, key=lambda s: s != site))
        here = pathlib.Path(__file__).parent
        self.keep(site, "holder", ["/usr/bin/python3", here / "holder.py", self.folder / f"{site}.active", ends])

    def start_site(self, site):
        self.start_etcd(site)
        if site in COPIES:
            self.start_holder(site)
