//! The channels, wake-ups and stops between operators and tasks, on every interleaving that Shuttle draws.
//!
//! The modules are compiled here a second time, with Shuttle's queues, signals and atomics in the place of those that
//! `src/sync.rs` names. So this test brings its own `main`: in a harness their unit tests would run too, which need the
//! real ones.
//!
//! `INTERLEAVINGS` is how many of each kind are drawn (default 2000).
#![allow(
    dead_code,
    unused_imports,
    reason = "of each module its part is used, and its unit tests are not"
)]

#[path = "../../src/channel.rs"]
mod channel;
#[path = "../../src/stop.rs"]
mod stop;
mod sync;
#[path = "../../src/wake.rs"]
mod wake;

use shuttle::future::block_on;
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use channel::{AppendCommand, Meter, Weigh, WriteCommand, append_channel, write_channel};
use stop::Stop;
use wake::{Waker, replies};

/// As Timely has it: what is activated runs again.
#[derive(Default)]
struct Activations {
    activated: Mutex<bool>,
    changed: Condvar,
}

impl Activations {
    fn activate(&self) {
        *self.activated.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut activated = self.activated.lock().unwrap();
        while !*activated {
            activated = self.changed.wait(activated).unwrap();
        }
        *activated = false;
    }
}

/// An operator that is only woken, and what wakes it: nothing of it is lost, however they meet. A wake-up that is
/// lost is a deadlock, which Shuttle reports.
fn no_wake_up_is_lost() {
    let activations = Arc::new(Activations::default());
    let wakes = Arc::clone(&activations);
    let waker = Waker::new(move || wakes.activate());
    let stop = Stop::new(false);
    stop.wakes(Arc::clone(&waker));
    let (replies, inbox) = replies(&waker);
    let task = thread::spawn(move || {
        for message in 0..3 {
            let _ = replies.send(message);
        }
    });
    let stopping = Arc::clone(&stop);
    let host = thread::spawn(move || stopping.stop());
    let (mut seen, mut ended, mut stopped) = (Vec::new(), false, false);
    while !(ended && stopped) {
        activations.wait();
        let awake = waker.awake();
        ended = inbox.drain(&awake, |message| seen.push(message));
        stopped = stop.is_stopped(&awake);
    }
    assert_eq!(seen, [0, 1, 2]);
    task.join().unwrap();
    host.join().unwrap();
}

/// A batch of so many updates.
struct Batch(usize);

impl Weigh for Batch {
    fn updates(&self) -> usize {
        self.0
    }
    fn bytes(&self) -> usize {
        8 * self.0
    }
    fn read_back(&self) -> usize {
        self.0
    }
}

/// What an operator sends arrives in the order of its activations and phases, and the queue's weight is that of what
/// is in it.
fn commands_arrive_in_order() {
    let meter = Arc::new(Meter::default());
    let (mut commands, mut received) = write_channel(Arc::clone(&meter));
    let (mut triggers, mut triggered) = append_channel(Arc::clone(&meter));
    let write = thread::spawn(move || {
        let mut seen = Vec::new();
        while let Some(command) = block_on(received.recv()) {
            seen.push(match command {
                WriteCommand::Batch(Batch(number)) => ("batch", number),
                WriteCommand::WriteBatch(number) => ("write", number),
            });
        }
        seen
    });
    let append = thread::spawn(move || {
        let mut seen = Vec::new();
        while let Some(command) = block_on(triggered.recv()) {
            seen.extend(match command {
                AppendCommand::Descriptions(numbers) => numbers,
                AppendCommand::Parts(numbers) => numbers,
                AppendCommand::Frontier(number) => vec![number],
            });
        }
        seen
    });
    let waits = Arc::clone(&meter);
    let host = thread::spawn(move || block_on(waits.read_back_at_most(0)));
    for number in 1..=2 {
        commands
            .activation()
            .batch(Some(Batch(number)))
            .write_batch(Some(10 * number));
        triggers
            .activation()
            .descriptions(vec![10 * number])
            .parts(vec![10 * number + 1])
            .frontier(Some(10 * number + 2));
    }
    drop((commands, triggers));
    assert_eq!(
        write.join().unwrap(),
        [("batch", 1), ("write", 10), ("batch", 2), ("write", 20)]
    );
    assert_eq!(append.join().unwrap(), [10, 11, 12, 20, 21, 22]);
    host.join().unwrap();
    assert_eq!((meter.updates(), meter.bytes()), (0, 0));
}

/// A task that ends while it is sent to leaves nothing in the meter, or its host would wait for it for ever.
fn who_goes_leaves_no_weight() {
    let meter = Arc::new(Meter::default());
    let (mut commands, mut received) = write_channel::<Batch, ()>(Arc::clone(&meter));
    let task = thread::spawn(move || {
        let _ = block_on(received.recv());
    });
    for _ in 0..2 {
        commands
            .activation()
            .batch(Some(Batch(5)))
            .write_batch(None);
    }
    task.join().unwrap();
    commands
        .activation()
        .batch(Some(Batch(5)))
        .write_batch(None);
    assert_eq!((meter.updates(), meter.bytes()), (0, 0));
    block_on(meter.read_back_at_most(0));
}

/// A task that waits for commands that never come ends with its sink; and what it was told before that it has seen.
fn a_stop_ends_who_waits() {
    let meter = Arc::new(Meter::default());
    let (mut commands, mut received) = write_channel(Arc::clone(&meter));
    let stop = Stop::new(false);
    let stopped = Arc::clone(&stop);
    let task = thread::spawn(move || {
        let mut seen = 0;
        while let Some(Some(
            WriteCommand::Batch(Batch(number)) | WriteCommand::WriteBatch(number),
        )) = block_on(stopped.or_stop(received.recv()))
        {
            seen += number;
        }
        seen
    });
    commands
        .activation()
        .batch(Some(Batch(1)))
        .write_batch(Some(2));
    let other = Arc::clone(&stop);
    let failing = thread::spawn(move || other.stop());
    let seen = task.join().unwrap();
    failing.join().unwrap();
    assert!([0, 1, 3].contains(&seen), "in order: {seen}");
    drop(commands);
    assert_eq!(meter.updates(), 0);
}

fn main() {
    let count = std::env::var("INTERLEAVINGS").map_or(2_000, |count| {
        count.parse().expect("INTERLEAVINGS is a number")
    });
    let all: [(&str, fn()); 4] = [
        ("no_wake_up_is_lost", no_wake_up_is_lost),
        ("commands_arrive_in_order", commands_arrive_in_order),
        ("who_goes_leaves_no_weight", who_goes_leaves_no_weight),
        ("a_stop_ends_who_waits", a_stop_ends_who_waits),
    ];
    for (name, test) in all {
        shuttle::check_random(test, count);
        // Few preemptions at chosen places find what needs a rare order.
        shuttle::check_pct(test, count, 3);
        println!("test {name} ... ok, {count} at random and {count} by priorities");
    }
}
