//! What can be wrong with the decide database.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("failed to create the directory of the decide database")]
    Directory(#[source] std::io::Error),
    #[error("the decide database failed")]
    Sqlite(#[from] rusqlite::Error),
    #[error("a record of the decide database cannot be read")]
    Record(#[from] serde_json::Error),
    #[error("a record of the decide database is damaged")]
    Deflated(#[source] std::io::Error),
    #[error("a record of the decide database unfolds to more than {most} bytes")]
    TooLong { most: u64 },
    #[error("the database thread ended")]
    Thread,
    #[error("failed to write decide.mark")]
    Mark(#[source] std::io::Error),
    #[error("{what}")]
    Changed { what: String },
    #[error(
        "{path} is not what was acknowledged, and with it this node could vote twice. Move {dir} away, start the node with an empty one, and let an operator admit it: bcpctl readmit site SITE",
        path = path.display(), dir = path.parent().unwrap_or(path).display()
    )]
    Damaged {
        path: PathBuf,
        #[source]
        cause: Box<StoreError>,
    },
}

impl StoreError {
    /// The database itself is at fault, and not the way to it.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            StoreError::Sqlite(error) => {
                use rusqlite::Error as E;
                use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
                let code = error.sqlite_error_code();
                // Its tables are not the ones that were made, or hold other types.
                let strange = matches!(
                    error,
                    E::InvalidColumnType(..) | E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..)
                );
                strange || matches!(code, Some(DatabaseCorrupt | NotADatabase | rusqlite::ErrorCode::Unknown))
            }
            StoreError::Record(_)
            | StoreError::Deflated(_)
            | StoreError::TooLong { .. }
            | StoreError::Changed { .. } => true,
            StoreError::Directory(_) | StoreError::Thread | StoreError::Mark(_) | StoreError::Damaged { .. } => false,
        }
    }
}
