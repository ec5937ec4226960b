//! The wish to stop, as a value that every task can wait for.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Cheap to clone; once requested it stays requested.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Requests the shutdown; dropping it requests it too, so no task outlives its owner unseen.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

impl ShutdownTrigger {
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    #[must_use]
    pub fn manual() -> (ShutdownTrigger, Shutdown) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger(sender), Shutdown(receiver))
    }

    /// Requested by SIGTERM or SIGINT. Must be called inside a runtime.
    pub fn on_signals() -> std::io::Result<Shutdown> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (trigger, shutdown) = Shutdown::manual();
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => tracing::info!("SIGTERM: draining"),
                _ = int.recv() => tracing::info!("SIGINT: draining"),
            }
            trigger.request();
        });
        Ok(shutdown)
    }

    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the shutdown is requested. Cancel-safe.
    pub async fn wait(&mut self) {
        // An error means that the trigger is gone, which is a request as well.
        let _ = self.0.wait_for(|requested| *requested).await;
    }
}
