//! Serial ports.
//!
//! Knows: speed, form of characters, and that one program owns a port. Refuses to know: what goes over it.
//!
//! A port is locked for as long as it is open: two masters on one line garble each other's questions.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open as open_file};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, QueueSelector, SpecialCodeIndex, tcflush, tcgetattr, tcsetattr};
use tokio::io::Join;
use tokio::net::unix::pipe::{Receiver, Sender};

use super::config::{Parity, SerialLine};

/// Why a port cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("cannot open {port}: {cause}")]
    Open {
        port: String,
        #[source]
        cause: io::Error,
    },
    #[error("another program uses {port}")]
    Taken { port: String },
    #[error("cannot set {port} to {line}: {cause}")]
    Settings {
        port: String,
        line: SerialLine,
        #[source]
        cause: io::Error,
    },
}

/// An open port: the runtime's pipes read and write whatever can be waited for, a terminal too.
pub type Port = Join<Receiver, Sender>;

/// Opens a port, owns it and sets it up.
///
/// # Errors
/// It is not there, taken, or does not do this speed.
pub fn open(path: &str, line: &SerialLine) -> Result<Port, PortError> {
    let failed = |cause: io::Error| PortError::Open { port: path.to_owned(), cause };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open_file(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?);
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(PortError::Taken { port: path.to_owned() }),
        Err(errno) => return Err(failed(errno.into())),
    }
    set_up(&file, line).map_err(|cause| PortError::Settings { port: path.to_owned(), line: *line, cause })?;
    let writing = file.try_clone().map_err(failed)?;
    let halves = (Receiver::from_file_unchecked(file), Sender::from_file_unchecked(writing));
    Ok(tokio::io::join(halves.0.map_err(failed)?, halves.1.map_err(failed)?))
}

fn set_up(file: &File, line: &SerialLine) -> io::Result<()> {
    let mut settings = tcgetattr(file)?;
    settings.make_raw();
    settings.control_modes.insert(ControlModes::CLOCAL | ControlModes::CREAD);
    settings
        .control_modes
        .remove(ControlModes::PARENB | ControlModes::PARODD | ControlModes::CSTOPB | ControlModes::CRTSCTS);
    settings.control_modes.insert(match line.parity {
        Parity::None => ControlModes::empty(),
        Parity::Even => ControlModes::PARENB,
        Parity::Odd => ControlModes::PARENB | ControlModes::PARODD,
    });
    if line.stop_bits == 2 {
        settings.control_modes.insert(ControlModes::CSTOPB);
    }
    // Reading nothing is "try again", never "the end".
    settings.special_codes[SpecialCodeIndex::VMIN] = 1;
    settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    settings.set_speed(line.baud)?;
    tcsetattr(file, OptionalActions::Now, &settings)?;
    if tcgetattr(file)?.output_speed() != line.baud {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the port does not do this speed"));
    }
    tcflush(file, QueueSelector::IOFlush)?;
    Ok(())
}
