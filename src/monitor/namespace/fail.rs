//! Why an operation did not happen: either it was refused, which is an answer like any other and is the same
//! on every monitor, or the store under this one monitor failed, which stops it.

use crate::monitor::store::StoreError;
use crate::types::Errno;

/// What ends an operation early. Nothing that it has written by then is kept.
#[derive(Debug, Clone)]
pub(super) enum Fail {
    /// The answer is this errno.
    Refused(Errno),
    /// The store failed: this monitor cannot go on.
    Store(StoreError),
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Separates the two: the answer inside, the store's failure outside.
pub(super) fn answered<T>(result: Result<T, Fail>) -> Result<Result<T, Errno>, StoreError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Fail::Refused(errno)) => Ok(Err(errno)),
        Err(Fail::Store(error)) => Err(error),
    }
}
