"""Three sites and their clients as network namespaces on one bridge; links are cut by iptables."""
import os
import signal
import subprocess
import time

SITES = ("a", "b", "w")
HOSTS = {"a": 1, "b": 2, "w": 3, "c": 4}


def run(*command, check=True, **more):
    return subprocess.run([str(part) for part in command], check=check, text=True, capture_output=True, **more)


class Net:
    """`number` keeps two of them apart. Everything it made is gone after `close`."""

    def __init__(self, number):
        self.number, self.bridge = number, f"bcpcmp{number}"
        self.close()
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "link", "set", self.bridge, "up")
        for name, host in HOSTS.items():
            space, near, far = self.space(name), f"bc{number}{name}0", f"bc{number}{name}1"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
            run("ip", "link", "set", near, "master", self.bridge, "up")
            run("ip", "link", "set", far, "netns", space)
            run("ip", "-n", space, "addr", "add", f"10.77.{number}.{host}/24", "dev", far)
            run("ip", "-n", space, "link", "set", far, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")

    def space(self, name):
        return f"bcpcmp{self.number}{name}"

    def address(self, name):
        return f"10.77.{self.number}.{HOSTS[name]}"

    def popen(self, name, command, log, user=None, **more):
        prefix = ["ip", "netns", "exec", self.space(name)]
        if user:
            prefix += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        out = open(log, "a", encoding="utf-8")
        return subprocess.Popen(
            prefix + [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True, cwd="/", **more)

    def cut(self, sender, receiver, one_way=False):
        for source, target in [(sender, receiver)] + ([] if one_way else [(receiver, sender)]):
            run("ip", "netns", "exec", self.space(target), "iptables", "-A", "INPUT", "-s", self.address(source), "-j", "DROP")

    def heal(self):
        for name in HOSTS:
            run("ip", "netns", "exec", self.space(name), "iptables", "-F", "INPUT")

    def signal(self, name, number):
        """To everything that runs at a site; again for SIGKILL, as what was about to fork may have done so."""
        for _ in range(100 if number == signal.SIGKILL else 1):
            pids = run("ip", "netns", "pids", self.space(name), check=False).stdout.split()
            for pid in pids:
                try:
                    os.kill(int(pid), number)
                except ProcessLookupError:
                    pass
            if not pids:
                return
            if number == signal.SIGKILL:
                time.sleep(0.02)

    def close(self):
        for name in HOSTS:
            if os.path.exists(f"/run/netns/{self.space(name)}"):
                self.signal(name, signal.SIGKILL)
                run("ip", "netns", "del", self.space(name), check=False)
            # It goes with its namespace, but only once the last socket in there has gone.
            run("ip", "link", "del", f"bc{self.number}{name}0", check=False)
        run("ip", "link", "del", self.bridge, check=False)
