//! Tasks of many futures: what reads from a connection is polled where quinn drives it, so that what comes now and then
//! passes from the driver to its reader without a wake-up of the runtime. Whoever has much to do leaves for a task of its own meanwhile.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use tokio::task::coop;

use crate::sync::lock;

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a future runs, as it wishes itself: in the group, or apart, in a task of its own. It moves when it next waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place(Arc<AtomicBool>);

impl Place {
    pub(crate) fn set_apart(&self, apart: bool) {
        self.0.store(apart, Ordering::Relaxed);
    }

    fn is_apart(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Work {
    future: BoxFuture,
    place: Place,
}

impl Work {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.future.as_mut().poll(cx)
    }
}

/// Futures polled in one go before other tasks have their turn.
const POLLS_MAX: usize = 64;

/// A task that takes futures in. It ends when all of them have.
#[derive(Clone)]
pub(crate) struct Group {
    runtime: Arc<dyn Runtime>,
    queue: Arc<Queue>,
}

/// What is to be polled.
struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    /// New ones.
    joining: Vec<Work>,
    /// Indices of those that were woken.
    woken: VecDeque<usize>,
    /// The task, while it waits.
    task: Option<Waker>,
    /// The task has ended, or was dropped.
    ended: bool,
}

impl Queue {
    /// Takes a future in, or gives it back if the task has ended.
    fn join(&self, work: Work) -> Result<(), Work> {
        let mut state = lock(&self.0);
        if state.ended {
            return Err(work);
        }
        state.joining.push(work);
        Self::wake(state);
        Ok(())
    }

    fn wake(mut state: MutexGuard<'_, State>) {
        let task = state.task.take();
        drop(state);
        task.into_iter().for_each(Waker::wake);
    }
}

/// Wakes one future.
struct Member {
    queue: Arc<Queue>,
    index: usize,
    /// It has been woken since it was polled.
    woken: AtomicBool,
}

impl Wake for Member {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            let mut state = lock(&self.queue.0);
            state.woken.push_back(self.index);
            Queue::wake(state);
        }
    }
}

/// The task of a group.
struct Running {
    runtime: Arc<dyn Runtime>,
    queue: Arc<Queue>,
    /// The futures; the index of one that is gone is used again.
    members: Vec<Option<(Work, Arc<Member>)>>,
}

impl Running {
    fn take_in(&mut self, work: Work, state: &mut State) {
        let index = self.members.iter().position(Option::is_none).unwrap_or_else(|| {
            self.members.push(None);
            self.members.len() - 1
        });
        let member = Member { queue: self.queue.clone(), index, woken: AtomicBool::new(true) };
        self.members[index] = Some((work, Arc::new(member)));
        state.woken.push_back(index);
    }

    /// The index of a future that is to be polled; none until the task is woken.
    fn next(&mut self, cx: &Context<'_>) -> Option<usize> {
        let queue = self.queue.clone();
        let mut state = lock(&queue.0);
        for work in std::mem::take(&mut state.joining) {
            self.take_in(work, &mut state);
        }
        let next = state.woken.pop_front();
        if next.is_none() {
            state.ended = self.is_empty();
            state.task = Some(cx.waker().clone());
        }
        next
    }

    fn is_empty(&self) -> bool {
        self.members.iter().all(Option::is_none)
    }

    /// Says whether the rest is left to the task's next turn: the future was woken during its poll, mostly by itself, to yield.
    fn poll_member(&mut self, index: usize) -> bool {
        // One that is gone may have been woken once more.
        let Some((work, member)) = &mut self.members[index] else { return false };
        // Before the poll, so that a wake-up during it is not lost; and what was done before the last one is seen by the poll.
        member.woken.swap(false, Ordering::SeqCst);
        let waker = Waker::from(member.clone());
        let poll = AssertUnwindSafe(|| work.poll(&mut Context::from_waker(&waker)));
        // As in a task of its own, one that panics goes alone, and the panic has been told.
        let pending = catch_unwind(poll).is_ok_and(|polled| polled.is_pending());
        if pending && !work.place.is_apart() {
            return member.woken.load(Ordering::SeqCst);
        }
        if let Some((work, _)) = self.members[index].take()
            && pending
        {
            self.runtime.spawn(Box::pin(Apart { work: Some(work), queue: self.queue.clone() }));
        }
        false
    }
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..POLLS_MAX {
            let Some(index) = self.next(cx) else {
                return if self.is_empty() { Poll::Ready(()) } else { Poll::Pending };
            };
            let yields = self.poll_member(index);
            // Without budget nothing of tokio's is ready, whoever asks.
            if yields || !coop::has_budget_remaining() {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The task of a future that is apart from its group.
struct Apart {
    /// Nothing once it is back.
    work: Option<Work>,
    queue: Arc<Queue>,
}

impl Future for Apart {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut work) = self.work.take() else { return Poll::Ready(()) };
        if work.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Without a group to go back to it stays.
        self.work = if work.place.is_apart() { Some(work) } else { self.queue.join(work).err() };
        if self.work.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = lock(&self.queue.0);
        state.ended = true;
        let left = (std::mem::take(&mut state.joining), state.task.take());
        drop(state);
        drop(left);
    }
}

impl Group {
    /// A task of a runtime, with a first future.
    fn of(runtime: &Arc<dyn Runtime>, future: BoxFuture) -> Self {
        let first = Work { future, place: Place::default() };
        let queue = Arc::new(Queue(Mutex::new(State { joining: vec![first], ..State::default() })));
        let running = Running { runtime: runtime.clone(), queue: queue.clone(), members: Vec::new() };
        runtime.spawn(Box::pin(running));
        Self { runtime: runtime.clone(), queue }
    }

    /// Calls what makes quinn spawn a connection's driver, and gives the group that the driver is in.
    pub(crate) fn of_driver<T, E>(
        runtime: &Arc<dyn Runtime>,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Self), E> {
        SPAWNED.set(Spawned::Wanted);
        let made = call();
        let spawned = SPAWNED.replace(Spawned::Unwanted);
        made.map(|connecting| match spawned {
            Spawned::Group(group) => (connecting, group),
            // What would join it has tasks of its own then.
            _ => {
                debug_assert!(false, "quinn spawns the driver of a connection in the call that makes it");
                (connecting, Self::of(runtime, Box::pin(std::future::ready(()))))
            }
        })
    }

    /// Polls a future in this group's task; in one of its own if the group's has ended, or when it next waits and wishes so.
    pub(crate) fn spawn(&self, place: Place, future: impl Future<Output = ()> + Send + 'static) {
        if let Err(work) = self.queue.join(Work { future: Box::pin(future), place }) {
            self.runtime.spawn(work.future);
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

enum Spawned {
    Unwanted,
    Wanted,
    Group(Group),
}

thread_local! {
    /// What quinn spawns on this thread, if somebody wants to know.
    static SPAWNED: Cell<Spawned> = const { Cell::new(Spawned::Unwanted) };
}

/// A runtime whose tasks are groups where [`Group::of_driver`] wants them.
#[derive(Debug)]
pub(crate) struct GroupRuntime(pub(crate) Arc<dyn Runtime>);

impl Runtime for GroupRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.0.new_timer(at)
    }

    fn spawn(&self, future: BoxFuture) {
        match SPAWNED.replace(Spawned::Unwanted) {
            Spawned::Wanted => SPAWNED.set(Spawned::Group(Group::of(&self.0, future))),
            other => {
                SPAWNED.set(other);
                self.0.spawn(future);
            }
        }
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.0.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        self.0.now()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::ready;

    use tokio::sync::mpsc;

    use super::*;

    /// Counts how often the task would be scheduled.
    #[derive(Default)]
    struct Scheduled(AtomicUsize);

    impl Wake for Scheduled {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Spawns into a group that the test polls by hand, and gives what was spawned outside of it.
    #[derive(Debug, Default)]
    struct ByHand(Mutex<Vec<Unshown>>);

    struct Unshown(BoxFuture);

    impl fmt::Debug for Unshown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a future")
        }
    }

    impl Runtime for ByHand {
        fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
            quinn::TokioRuntime.new_timer(at)
        }

        fn spawn(&self, future: BoxFuture) {
            lock(&self.0).push(Unshown(future));
        }

        fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl ByHand {
        fn take(&self) -> Vec<BoxFuture> {
            lock(&self.0).drain(..).map(|unshown| unshown.0).collect()
        }
    }

    fn group(first: impl Future<Output = ()> + Send + 'static) -> (Group, BoxFuture, Arc<ByHand>) {
        let by_hand = Arc::new(ByHand::default());
        let runtime: Arc<dyn Runtime> = by_hand.clone();
        let group = Group::of(&runtime, Box::pin(first));
        let task = by_hand.take().pop().expect("a group is a task");
        (group, task, by_hand)
    }

    fn poll(task: &mut BoxFuture, scheduled: &Arc<Scheduled>) -> Poll<()> {
        task.as_mut().poll(&mut Context::from_waker(&Waker::from(scheduled.clone())))
    }

    #[test]
    fn what_passes_within_a_group_wakes_no_task() {
        let (there, mut at_there) = mpsc::unbounded_channel::<u32>();
        let (back, mut at_back) = mpsc::unbounded_channel::<u32>();
        let (start, mut started) = mpsc::unbounded_channel::<u32>();
        let (group, mut task, _) = group(async move {
            while let Some(n) = started.recv().await {
                there.send(n).expect("somebody listens");
                assert_eq!(at_back.recv().await, Some(n + 1));
            }
        });
        group.spawn(Place::default(), async move {
            while let Some(n) = at_there.recv().await {
                back.send(n + 1).expect("somebody listens");
            }
        });
        let scheduled = Arc::new(Scheduled::default());
        assert!(poll(&mut task, &scheduled).is_pending());
        for n in 0..100 {
            start.send(n).expect("somebody listens");
            assert_eq!(scheduled.0.swap(0, Ordering::SeqCst), 1, "what comes from outside schedules the task, once");
            assert!(poll(&mut task, &scheduled).is_pending());
            assert_eq!(scheduled.0.load(Ordering::SeqCst), 0);
        }
        drop(start);
        assert!(poll(&mut task, &scheduled).is_ready(), "it ends when all futures have");
    }

    /// Counts its polls, and does something at each.
    fn counted<F>(polls: &Arc<AtomicUsize>, mut each: F) -> impl Future<Output = ()> + Send + use<F>
    where
        F: FnMut(&Context<'_>) + Send,
    {
        let polls = polls.clone();
        std::future::poll_fn(move |cx| {
            polls.fetch_add(1, Ordering::SeqCst);
            each(cx);
            Poll::Pending
        })
    }

    #[test]
    fn who_yields_lets_other_tasks_have_their_turn() {
        let (own, other) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (group, mut task, _) = group(counted(&own, |cx| cx.waker().wake_by_ref()));
        group.spawn(Place::default(), counted(&other, |_| {}));
        let scheduled = Arc::new(Scheduled::default());
        for turn in 1..=10 {
            assert!(poll(&mut task, &scheduled).is_pending());
            assert_eq!(scheduled.0.load(Ordering::SeqCst), turn, "it is scheduled again");
        }
        // The one is polled in every turn, as it always yields first; the other once, behind it.
        assert_eq!((own.load(Ordering::SeqCst), other.load(Ordering::SeqCst)), (10, 1));
    }

    #[test]
    fn two_that_never_let_each_other_rest_let_other_tasks_have_their_turn() {
        let polls = Arc::new(AtomicUsize::new(0));
        let wakers: Arc<Mutex<[Option<Waker>; 2]>> = Arc::default();
        let one_of_two = |me: usize| {
            let wakers = wakers.clone();
            counted(&polls, move |cx| {
                let mut wakers = lock(&wakers);
                wakers[me] = Some(cx.waker().clone());
                wakers[1 - me].iter().for_each(Waker::wake_by_ref);
            })
        };
        let (group, mut task, _) = group(one_of_two(0));
        group.spawn(Place::default(), one_of_two(1));
        let scheduled = Arc::new(Scheduled::default());
        for turn in 1..=3 {
            assert!(poll(&mut task, &scheduled).is_pending());
            assert_eq!(scheduled.0.load(Ordering::SeqCst), turn, "it is scheduled again");
            assert_eq!(polls.load(Ordering::SeqCst), turn * POLLS_MAX);
        }
    }

    #[test]
    fn one_that_panics_goes_alone() {
        let polls = Arc::new(AtomicUsize::new(0));
        let (group, mut task, _) = group(counted(&polls, |_| {}));
        let alive = Arc::new(());
        let held = alive.clone();
        group.spawn(Place::default(), async move {
            let _held = held;
            panic!("a test of a panic")
        });
        group.spawn(Place::default(), counted(&polls, |_| {}));
        assert!(poll(&mut task, &Arc::default()).is_pending());
        assert_eq!((polls.load(Ordering::SeqCst), Arc::strong_count(&alive)), (2, 1));
    }

    #[test]
    fn indices_are_used_again_and_late_wake_ups_of_their_former_futures_do_no_harm() {
        let (kept, wakers) = mpsc::unbounded_channel();
        let mut wakers: mpsc::UnboundedReceiver<Waker> = wakers;
        let (end, mut ended) = mpsc::unbounded_channel::<()>();
        let (group, mut task, _) = group(async move { while ended.recv().await.is_some() {} });
        let scheduled = Arc::new(Scheduled::default());
        for _ in 0..10 {
            let kept = kept.clone();
            group.spawn(
                Place::default(),
                std::future::poll_fn(move |cx| {
                    let _ = kept.send(cx.waker().clone());
                    Poll::Ready(())
                }),
            );
            assert!(poll(&mut task, &scheduled).is_pending());
        }
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        group.spawn(
            Place::default(),
            std::future::poll_fn(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                Poll::<()>::Pending
            }),
        );
        assert!(poll(&mut task, &scheduled).is_pending());
        assert_eq!(polls.load(Ordering::SeqCst), 1);
        while let Ok(waker) = wakers.try_recv() {
            waker.wake();
        }
        assert!(poll(&mut task, &scheduled).is_pending());
        // Its place is that of all ten; a poll too many is allowed.
        assert!((2..=11).contains(&polls.load(Ordering::SeqCst)), "{polls:?}");
        drop(end);
        assert!(poll(&mut task, &scheduled).is_pending(), "one is left");
    }

    #[test]
    fn who_has_much_to_do_leaves_and_comes_back() {
        let (give, mut given) = mpsc::unbounded_channel::<bool>();
        let (done, mut at_done) = mpsc::unbounded_channel();
        let (group, mut task, runtime) = group(std::future::pending());
        let place = Place::default();
        let own = place.clone();
        group.spawn(place, async move {
            while let Some(apart) = given.recv().await {
                own.set_apart(apart);
                let _ = done.send(apart);
            }
        });
        let (of_group, of_own) = (Arc::new(Scheduled::default()), Arc::new(Scheduled::default()));
        let counts = || (of_group.0.swap(0, Ordering::SeqCst), of_own.0.swap(0, Ordering::SeqCst));
        assert!(poll(&mut task, &of_group).is_pending());
        for _ in 0..3 {
            give.send(false).expect("it listens");
            assert_eq!(counts(), (1, 0));
            assert!(poll(&mut task, &of_group).is_pending());
            assert_eq!((at_done.try_recv(), runtime.take().len()), (Ok(false), 0), "it stays");

            give.send(true).expect("it listens");
            assert_eq!(counts(), (1, 0));
            assert!(poll(&mut task, &of_group).is_pending());
            let mut apart = runtime.take().pop().expect("it has left");
            assert_eq!(at_done.try_recv(), Ok(true));
            // The group is still told of what comes before the new task is polled.
            give.send(true).expect("it listens");
            assert_eq!(counts(), (1, 0));
            assert!(poll(&mut task, &of_group).is_pending());
            assert!(poll(&mut apart, &of_own).is_pending());
            assert_eq!(at_done.try_recv(), Ok(true));

            give.send(true).expect("it listens");
            assert_eq!(counts(), (0, 1));
            assert!(poll(&mut apart, &of_own).is_pending());
            assert_eq!(at_done.try_recv(), Ok(true));
            give.send(false).expect("it listens");
            assert_eq!(counts(), (0, 1));
            assert!(poll(&mut apart, &of_own).is_ready(), "it is back");
            assert_eq!((at_done.try_recv(), counts()), (Ok(false), (1, 0)));
            assert!(poll(&mut task, &of_group).is_pending());
        }
        give.send(true).expect("it listens");
        assert!(poll(&mut task, &of_group).is_pending());
        let mut apart = runtime.take().pop().expect("it has left");
        drop(task);
        give.send(false).expect("it listens");
        assert!(poll(&mut apart, &of_own).is_pending(), "where its group has ended it stays");
        drop(give);
        assert!(poll(&mut apart, &of_own).is_ready());
    }

    #[test]
    fn futures_go_with_their_task_and_later_ones_have_tasks_of_their_own() {
        let alive = Arc::new(());
        let holds = |alive: &Arc<()>| {
            let alive = alive.clone();
            async move {
                std::future::pending::<()>().await;
                drop(alive);
            }
        };
        let (group, mut task, runtime) = group(holds(&alive));
        group.spawn(Place::default(), holds(&alive));
        assert!(poll(&mut task, &Arc::default()).is_pending());
        group.spawn(Place::default(), holds(&alive));
        assert_eq!(Arc::strong_count(&alive), 4);
        drop(task);
        assert_eq!(Arc::strong_count(&alive), 1, "polled or not");
        group.spawn(Place::default(), holds(&alive));
        assert_eq!(Arc::strong_count(&alive), 2);
        assert_eq!(runtime.take().len(), 1);
    }

    #[test]
    fn only_what_quinn_spawns_during_the_call_is_the_group() {
        let by_hand = Arc::new(ByHand::default());
        let inner: Arc<dyn Runtime> = by_hand.clone();
        let runtime = GroupRuntime(inner.clone());
        let spawn = || runtime.spawn(Box::pin(std::future::ready(())));
        spawn();
        assert_eq!(Group::of_driver(&inner, || Err::<(), _>("refused")).err(), Some("refused"));
        spawn();
        let (made, group) = Group::of_driver(&inner, || {
            spawn();
            Ok::<_, ()>(7)
        })
        .expect("made");
        assert_eq!(made, 7);
        spawn();
        assert!(matches!(SPAWNED.replace(Spawned::Unwanted), Spawned::Unwanted), "what nobody asked for is no group");
        let mut tasks = by_hand.take();
        assert_eq!(tasks.len(), 4);
        let polled = Arc::new(AtomicUsize::new(0));
        let count = polled.clone();
        group.spawn(Place::default(), async move { _ = count.fetch_add(1, Ordering::SeqCst) });
        assert!(poll(&mut tasks[2], &Arc::default()).is_ready());
        assert_eq!(polled.load(Ordering::SeqCst), 1, "it runs with what was spawned in the call");
    }

    /// Wakes from other threads while the task is polled, so that each wake-up falls at another point of the poll.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_up_from_another_thread_is_lost() {
        const ROUNDS: u32 = 20_000;
        let runtime: Arc<dyn Runtime> = Arc::new(quinn::TokioRuntime);
        let (to_group, mut from_outside) = mpsc::unbounded_channel::<u32>();
        let (to_outside, mut from_group) = mpsc::unbounded_channel::<u32>();
        let group = Group::of(&runtime, Box::pin(std::future::pending()));
        group.spawn(Place::default(), async move {
            while let Some(n) = from_outside.recv().await {
                to_outside.send(n).expect("the test listens");
            }
        });
        let mut sent = 0;
        let whole = std::future::poll_fn(|cx| {
            loop {
                if sent < ROUNDS {
                    to_group.send(sent).expect("the group listens");
                    sent += 1;
                }
                let n = ready!(from_group.poll_recv(cx)).expect("the group answers");
                if n + 1 == ROUNDS {
                    return Poll::Ready(());
                }
            }
        });
        tokio::time::timeout(std::time::Duration::from_secs(30), whole).await.expect("nothing is lost");
    }
}
