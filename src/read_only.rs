//! Whether a sink may write: not while its host says so, nor while its own signal does.

use tokio::sync::watch;

/// The signals of one sink. Whoever drops the sender of one has decided for good.
#[derive(Clone, Debug)]
pub(crate) struct ReadOnly {
    host: watch::Receiver<bool>,
    own: Option<watch::Receiver<bool>>,
}

impl ReadOnly {
    pub(crate) fn new(host: watch::Receiver<bool>, own: Option<watch::Receiver<bool>>) -> Self {
        ReadOnly { host, own }
    }

    /// True while nothing must be written.
    pub(crate) fn get(&self) -> bool {
        *self.host.borrow() || self.own.as_ref().is_some_and(|own| *own.borrow())
    }

    /// Waits until a signal has changed since this was last waited for. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) {
        let own = async {
            match &mut self.own {
                Some(own) => changed(own).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = changed(&mut self.host) => {}
            () = own => {}
        }
    }
}

async fn changed(signal: &mut watch::Receiver<bool>) {
    if signal.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn either_signal_says_no_and_a_dropped_one_says_no_more() {
        let (host, on_host) = watch::channel(false);
        let (own, on_own) = watch::channel(true);
        let mut both = ReadOnly::new(on_host, Some(on_own));
        let polled = |both: &mut ReadOnly| {
            let mut context = Context::from_waker(Waker::noop());
            pin!(both.changed()).poll(&mut context)
        };
        assert!(both.get());
        assert_eq!(polled(&mut both), Poll::Pending);
        own.send_replace(false);
        assert_eq!(polled(&mut both), Poll::Ready(()));
        assert!(!both.get());
        host.send_replace(true);
        drop(host);
        assert_eq!(polled(&mut both), Poll::Ready(()));
        assert!(both.get());
        assert_eq!(polled(&mut both), Poll::Pending);
        // The other one still counts.
        own.send_replace(true);
        assert_eq!(polled(&mut both), Poll::Ready(()));
    }
}
