//! What stands in the configurations of the reference application.

use std::fmt::Write as _;

use bcp_wire::Site;

use super::{NAME, SITES, name};
use crate::layout::Layout;
use crate::ports::{Lane, Port};

/// People and programs of this host through the socket, whose directory is closed; everybody else with the password.
pub(super) const HBA: &str = "\
local all all trust
host all app,replica 127.0.0.1/32 scram-sha-256
host replication replica 127.0.0.1/32 scram-sha-256
";

/// One command a line, as single-user mode reads them.
pub(super) fn schema(secret: &str) -> String {
    let mut text = String::new();
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    say(&format!("CREATE ROLE replica LOGIN REPLICATION PASSWORD '{secret}'"));
    say(&format!("CREATE ROLE app LOGIN PASSWORD '{secret}'"));
    // What pg_rewind reads at the other server.
    for function in [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ] {
        say(&format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO replica"));
    }
    say("CREATE TABLE public.entries (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())");
    say("GRANT SELECT, INSERT ON public.entries TO app");
    text
}

impl Layout {
    fn haproxy_socket(&self) -> std::path::PathBuf {
        self.data_dir.join("haproxy.sock")
    }

    pub(super) fn postgres_text(&self, site: Site) -> String {
        let dir = self.reference_dir();
        format!(
            "# Written by `fleet up`. Whom the server follows and waits for is in postgresql.auto.conf, by its gate.\n\
             data_directory = '{data}'\nhba_file = '{hba}'\nlisten_addresses = '127.0.0.1'\nport = {port}\n\
             unix_socket_directories = '{run}'\ncluster_name = '{NAME}-{site}'\n\
             shared_buffers = 16MB\nmax_connections = 60\n\
             # Synchronous: a commit waits until the standby has it on its disk.\n\
             synchronous_commit = on\nwal_level = replica\nmax_wal_senders = 8\nwal_keep_size = 256MB\nhot_standby = on\n\
             # A sender or receiver that hears nothing is gone; the standby answers at least every second.\n\
             wal_sender_timeout = 4s\nwal_receiver_timeout = 4s\nwal_receiver_status_interval = 1s\n\
             wal_retrieve_retry_interval = 500ms\n\
             log_line_prefix = '%m [%p] '\nlog_checkpoints = off\n",
            data = self.postgres(site).data_dir.display(),
            hba = dir.join("hba.conf").display(),
            port = self.base.site(site, Port::Postgres),
            run = dir.join("run").display(),
        )
    }

    /// The clients' door: to the server that the gates said, if its own sidecar calls it active. Connections to one that is not
    /// any more are closed.
    pub(crate) fn haproxy_text(&self) -> String {
        let mut text = format!(
            "# Written by `fleet up`.\nglobal\n  maxconn 512\n  stats socket {socket} mode 600 level admin\n\n\
             defaults\n  mode tcp\n  retries 0\n  timeout connect 2s\n  timeout check 1s\n  timeout client 1h\n  timeout server 1h\n\n\
             listen {NAME}\n  bind 127.0.0.1:{door}\n  bind {at_a}:{door}\n  bind {at_b}:{door}\n  option httpchk GET /health\n  http-check expect status 200\n\
             \x20 default-server inter 250ms fall 1 rise 1 on-marked-down shutdown-sessions\n",
            door = self.base.reference_door(),
            socket = self.haproxy_socket().display(),
            at_a = name::address(Site::A),
            at_b = name::address(Site::B),
        );
        for site in SITES {
            let (port, copy) = (self.base.site(site, Port::Postgres), self.base.site(site, Port::PostgresCopy));
            let _ = writeln!(text, "  server {site} 127.0.0.1:{port} check port {copy}");
        }
        text
    }

    /// The third ticket of a gate.
    pub(crate) fn reference_ticket(&self, site: Site) -> String {
        let quoted = |text: String| toml::Value::String(text).to_string();
        let path = |path: &std::path::Path| quoted(path.display().to_string());
        let postgres = self.postgres(site);
        let copy = self.base.site(site, Port::PostgresCopy);
        let mut text = format!(
            "\n[[gate.ticket]]\nid = \"{NAME}\"\nloss = \"stop\"\nstep_timeout = \"{limit}\"\n\
             facts_url = \"http://127.0.0.1:{copy}/facts\"\nsync_url = \"http://127.0.0.1:{copy}/sync\"\n\n\
             [[gate.ticket.actuators]]\nkind = \"postgres\"\ndata_dir = {data}\nsocket_dir = {run}\nport = {port}\n\
             runtime_dir = {runtime}\nstate_dir = {state}\nown_name = \"{own}\"\npeer_name = \"{peer_name}\"\n\
             peer = {peer}\ncopy_listen = \"127.0.0.1:{copy}\"\nfast_stop = \"{fast}ms\"\npeer_patience = \"{patience}ms\"\n",
            limit = self.timing.step_timeout(),
            data = path(&postgres.data_dir),
            run = path(&postgres.socket_dir),
            port = postgres.port,
            runtime = path(&postgres.runtime_dir),
            state = path(&postgres.state_dir),
            own = postgres.own_name,
            peer_name = postgres.peer_name,
            peer = quoted(postgres.peer.clone()),
            fast = postgres.fast_stop.as_millis(),
            patience = postgres.peer_patience.as_millis(),
        );
        if let Some(file) = &postgres.config_file {
            let _ = writeln!(text, "config_file = {}", path(file));
        }
        let servers: Vec<String> = SITES.iter().map(|site| format!("{site} = [\"{NAME}/{site}\"]")).collect();
        let _ = write!(
            text,
            "\n[[gate.ticket.actuators]]\nkind = \"haproxy\"\nsocket = {}\nservers = {{ {} }}\n",
            path(&self.haproxy_socket()),
            servers.join(", ")
        );
        text.push_str(&self.name_actuator(site));
        text
    }

    /// Both servers from a site, as the checks of its host see them.
    pub(crate) fn reference_checks(&self, from: Site) -> String {
        let mut text = String::new();
        for to in SITES {
            // The sidecar of the other site is asked over the link, as everything there.
            let port = if from == to {
                self.base.site(to, Port::PostgresCopy)
            } else {
                self.base.link(from, to, Lane::PostgresCopy)
            };
            let _ = write!(
                text,
                "\n[[check]]\nid = \"db-{to}-from-{from}\"\nservice = \"{NAME}\"\ntarget_site = \"{to}\"\n\
                 http = {{ url = \"http://127.0.0.1:{port}/copy\", expect_status = 200, expect_body = \"ok\", timeout = \"1s\" }}\n\
                 interval = \"1s\"\n"
            );
        }
        text
    }

    /// Its ticket and service for the policy.
    pub(crate) fn reference_policy() -> String {
        let checks: Vec<String> =
            Site::ALL.iter().flat_map(|from| SITES.map(|to| format!("\"db-{to}-from-{from}\""))).collect();
        format!(
            "\n[ticket.{NAME}]\nservice = \"{NAME}\"\nkind = \"active-passive\"\nmode = \"auto\"\nsites = [\"a\", \"b\"]\n\
             preferred = \"a\"\nrpo = \"zero\"\nmove_when = [\"site_lost(holder)\", \"service_down(holder) for 30s\"]\n\
             loss = \"stop\"\ngates = {{ a = [\"host-a\"], b = [\"host-b\"] }}\naccept_unfenced = true\n\
             confirm_within = \"5m\"\ncooldown = \"1h\"\nstable_for = \"30m\"\nmove_budget = 2\n\n\
             [service.{NAME}]\ntitle = {{ nl = \"Registerdatabank\", fr = \"Base du registre\", de = \"Registerdatenbank\", \
             en = \"Registry database\" }}\norder = 3\nticket = \"{NAME}\"\nchecks = [ {} ]\n",
            checks.join(", ")
        )
    }
}
