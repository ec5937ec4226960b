//! The gate on a thread of its own: neither a slow disk under the spool nor 500 devices delay the renewal of a lease.

use tokio::sync::{oneshot, watch};

use super::RunError;
use crate::gate::{Gate, GateError, GateFigures, GateSetup};

/// Steps wait for scripts, records for the disk.
const BLOCKING_THREADS: usize = 16;

/// A gate that runs.
#[derive(Debug)]
pub struct GateThread {
    pub figures: watch::Receiver<GateFigures>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Result<(), GateError>>,
}

impl GateThread {
    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// It cannot start.
    pub async fn start(setup: GateSetup) -> Result<GateThread, RunError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()
            .map_err(RunError::GateThread)?;
        let (stop, shutdown) = watch::channel(false);
        let (started, starting) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let body = move || {
            runtime.block_on(async {
                match Gate::build(setup).await {
                    Err(error) => drop(started.send(Err(error))),
                    Ok(gate) => {
                        drop(started.send(Ok(gate.figures())));
                        // Nobody listens any more once the agent has gone.
                        drop(end.send(gate.run(shutdown).await));
                    }
                }
            });
            // A step that hangs must not keep the process.
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("gate".to_owned()).spawn(body).map_err(RunError::GateThread)?;
        let figures = starting.await.map_err(|_| RunError::GateBrokeOff)?.map_err(RunError::GateStart)?;
        Ok(GateThread { figures, stop, ended })
    }

    /// Waits until it ends by itself. Cancel-safe.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<(), RunError> {
        (&mut self.ended).await.map_err(|_| RunError::GateBrokeOff)?.map_err(RunError::Gate)
    }

    /// Lets it end in order.
    ///
    /// # Errors
    /// As [`GateThread::ended`].
    pub async fn stop(mut self) -> Result<(), RunError> {
        self.stop.send_replace(true);
        self.ended().await
    }
}
