//! Questions to the server through its socket.

use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Postgres, PostgresError};

const CONNECT_LIMIT: Duration = Duration::from_millis(800);
/// One question; a server that takes longer is taken for one that does not answer.
const ASK_LIMIT: Duration = Duration::from_millis(1_500);

/// A session on the local server. Writes nothing that waits for a standby.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// # Errors
    /// Nobody answers there, or not in time.
    pub async fn open(config: &Postgres) -> Result<Session, PostgresError> {
        let mut options = tokio_postgres::Config::new();
        options.host_path(&config.socket_dir).port(config.port).user(&config.user).dbname("postgres");
        options.application_name("bcp-agent").connect_timeout(CONNECT_LIMIT);
        let connecting = tokio::time::timeout(CONNECT_LIMIT, options.connect(NoTls));
        let (client, connection) =
            connecting.await.map_err(|_| PostgresError::Late { what: "let us in" })?.map_err(PostgresError::Connect)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the session with the server has ended");
            }
        });
        Ok(Session { client, driver })
    }

    /// Fields of the first row, as text; absent where the server says NULL. Empty where there is no row.
    ///
    /// # Errors
    /// The server refuses, or takes too long.
    pub async fn row(&self, query: &str) -> Result<Vec<Option<String>>, PostgresError> {
        self.row_within(query, ASK_LIMIT).await
    }

    /// As [`Session::row`].
    ///
    /// # Errors
    /// As there.
    pub async fn row_within(&self, query: &str, limit: Duration) -> Result<Vec<Option<String>>, PostgresError> {
        let asked = tokio::time::timeout(limit, self.client.simple_query(query)).await;
        let messages = asked.map_err(|_| PostgresError::Late { what: "answer" })?.map_err(PostgresError::Query)?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect::<Vec<_>>())
            }
            _ => None,
        });
        Ok(row.unwrap_or_default())
    }

    /// # Errors
    /// As [`Session::row`].
    pub async fn is_in_recovery(&self) -> Result<bool, PostgresError> {
        Ok(self.text("SELECT pg_is_in_recovery()").await? == "t")
    }

    /// The first field of the first row; empty where there is none.
    ///
    /// # Errors
    /// As [`Session::row`].
    pub async fn text(&self, query: &str) -> Result<String, PostgresError> {
        Ok(self.row(query).await?.into_iter().next().flatten().unwrap_or_default())
    }

    /// Sets whom commits wait for; nobody where `name` is empty. Without effect on a standby until it is promoted.
    ///
    /// # Errors
    /// As [`Session::row`].
    pub async fn wait_for_standby(&self, name: &str) -> Result<(), PostgresError> {
        // The name is checked at load: lower case letters, digits and _.
        self.row(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'")).await?;
        self.row("SELECT pg_reload_conf()").await?;
        Ok(())
    }
}
