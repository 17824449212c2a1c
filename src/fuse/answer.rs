//! How a call of the filesystem becomes a reply: begun on the FUSE thread, finished wherever it gets ready.
//!
//! A reply sent through a task costs 10 to 45 µs more than one sent from here, and most calls are ready when
//! they are polled for the first time. So each is polled once on the FUSE thread, with a waker that wakes
//! nobody. If it is not ready it becomes a task, whose first poll brings the waker that counts: whatever
//! happened in between is seen by that poll.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use super::kernel::Question;
use crate::types::Errno;

/// Sends the value of a call through `$ok`, or its errno as the error.
macro_rules! answer {
    ($reply:ident, $call:expr, |$value:pat_param| $ok:expr) => {
        match $call {
            Ok($value) => $ok,
            Err(errno) => $reply.error(errno),
        }
    };
}
pub(super) use answer;

/// Begins `call` here and leaves what remains of it to the runtime, from where on `question` is watched for the
/// death of whoever asked. A panic ends the call, and with it the reply that it owns.
pub(super) fn begin(
    runtime: &Handle,
    question: &Arc<Question>,
    call: impl Future<Output = ()> + Send + 'static,
) {
    let mut call = Box::pin(call);
    let _runtime_of_this_thread = runtime.enter();
    let mut nobody = Context::from_waker(Waker::noop());
    match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut nobody))) {
        Ok(Poll::Ready(())) => {}
        Ok(Poll::Pending) => {
            question.begin_to_wait();
            drop(runtime.spawn(call));
        }
        // The panic itself was logged.
        Err(_) => {}
    }
}

/// The result of a call that does not wait (but may begin tasks, to read ahead say); an input/output error if it
/// panics.
pub(super) fn at_once<T>(
    runtime: &Handle,
    call: impl FnOnce() -> Option<Result<T, Errno>>,
) -> Option<Result<T, Errno>> {
    let _runtime_of_this_thread = runtime.enter();
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Some(Err(Errno::Io)))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::fuse::kernel::Reply;

    #[test]
    fn what_is_ready_ends_on_this_thread_and_the_rest_ends_on_the_runtime() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (ended, ends) = mpsc::channel();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();

        let here = ended.clone();
        let question = Reply::to_nobody().question();
        begin(runtime.handle(), &question, async move {
            here.send(thread::current().id()).unwrap();
        });
        assert_eq!(ends.recv().unwrap(), thread::current().id());

        begin(runtime.handle(), &question, async move {
            gone.await.unwrap();
            ended.send(thread::current().id()).unwrap();
        });
        assert!(ends.try_recv().is_err());
        go.send(()).unwrap();
        assert_ne!(ends.recv().unwrap(), thread::current().id());
    }

    #[test]
    fn a_panic_stays_in_its_request() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let question = Reply::to_nobody().question();
        begin(runtime.handle(), &question, async { panic!("expected by this test") });
        let answer = at_once::<()>(runtime.handle(), || panic!("expected by this test"));
        assert_eq!(answer, Some(Err(Errno::Io)));
    }

    #[test]
    fn what_is_answered_at_once_may_begin_tasks() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (ended, ends) = mpsc::channel();
        let answer = at_once(runtime.handle(), || {
            tokio::spawn(async move { ended.send(()).unwrap() });
            Some(Ok(5))
        });
        assert_eq!(answer, Some(Ok(5)));
        ends.recv().unwrap();
    }
}
