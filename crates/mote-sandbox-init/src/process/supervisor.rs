//! The thread of one process: moves its output to all who follow it and their input to it, keeps its time, waits for it.
//!
//! Output is read only while every follower has taken what came before, so the slowest decides the pace; where nobody
//! follows, it is read, counted and dropped. No other thread touches the process's pipes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Exit, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::follower::Follower;
use super::start::Begun;
use super::{Role, too_many_followers};
use crate::connection::Connection;
use crate::limits::{FOLLOWERS_MAX, OUTPUT_CHUNK_BYTES, OUTPUT_LINGER_MS};
use crate::sandbox::{Sandbox, silence};
use crate::termination::end_tree;

/// Serves a process until it has ended and everyone who follows it knows.
pub(crate) fn supervise(begun: Begun, owner: Connection, sandbox: &Arc<Sandbox>) {
    let mut supervisor = Supervisor {
        begun,
        sandbox,
        followers: Vec::new(),
        timer: None,
        buffer: Vec::new(),
        exit: None,
        is_timed_out: false,
        is_lingering: false,
    };
    if let Some(ms) = supervisor.begun.timeout_ms {
        supervisor.set_timer(ms);
    }
    supervisor.admit(Role::Owner, owner);
    while !supervisor.is_drained() {
        supervisor.turn();
    }
    supervisor.finish();
}

struct Supervisor<'a> {
    begun: Begun,
    sandbox: &'a Arc<Sandbox>,
    followers: Vec<Follower>,
    /// Of the process's time; after its end, of what others still write.
    timer: Option<OwnedFd>,
    buffer: Vec<u8>,
    exit: Option<Exit>,
    is_timed_out: bool,
    /// It has ended, and what others still write is waited for.
    is_lingering: bool,
}

/// What a polled descriptor stands for.
#[derive(Clone, Copy)]
enum Source {
    Exit,
    Mail,
    Timer,
    Input,
    Output(usize),
    Follower(usize),
}

impl Supervisor<'_> {
    fn is_drained(&self) -> bool {
        self.exit.is_some() && !self.begun.outputs.iter().any(super::output::Output::is_live)
    }

    /// Waits until something can be done, and does it.
    fn turn(&mut self) {
        for (source, flags) in self.wait() {
            match source {
                Source::Exit => self.collect(),
                Source::Mail => {
                    silence(&self.begun.handle.bell);
                    for (role, connection) in self.begun.handle.take_mail(false) {
                        self.admit(role, connection);
                    }
                }
                Source::Timer => self.time_is_over(),
                Source::Input => self.begun.input.write(),
                Source::Output(index) => self.read(index, flags),
                Source::Follower(index) => self.serve(index, flags),
            }
        }
        if self.exit.is_some() && !self.is_lingering && !self.is_drained() {
            self.is_lingering = true;
            self.set_timer(OUTPUT_LINGER_MS);
        }
        self.settle_input();
        let mut owners = self.followers.iter().filter(|follower| follower.role == Role::Owner);
        let is_left = owners.any(|owner| owner.is_gone || owner.is_over());
        if is_left && !self.begun.is_detached && self.exit.is_none() {
            end_tree(self.begun.handle.pid);
        }
        self.followers.retain(|follower| !follower.is_over());
    }

    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let is_paced = self.followers.iter().any(Follower::is_behind);
        let begun = &self.begun;
        let mut polled = Vec::with_capacity(6 + self.followers.len());
        let mut sources = Vec::with_capacity(6 + self.followers.len());
        let mut add = |source, descriptor, flags| {
            sources.push(source);
            polled.push(PollFd::from_borrowed_fd(descriptor, flags));
        };
        if self.exit.is_none() {
            add(Source::Exit, begun.pidfd.as_fd(), PollFlags::IN);
        }
        add(Source::Mail, begun.handle.bell.as_fd(), PollFlags::IN);
        if let Some(timer) = &self.timer {
            add(Source::Timer, timer.as_fd(), PollFlags::IN);
        }
        if let Some(descriptor) = begun.input.blocked_on() {
            add(Source::Input, descriptor, PollFlags::OUT);
        }
        let live = begun.outputs.iter().enumerate().filter(|(_, output)| !is_paced && output.is_live());
        for (index, output) in live {
            add(Source::Output(index), output.descriptor.as_fd(), PollFlags::IN);
        }
        let is_fed = begun.input.is_waiting();
        for (index, follower) in self.followers.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, follower.is_reading() && !is_fed);
            flags.set(PollFlags::OUT, follower.is_behind());
            // One that is gone would be reported again and again while its input waits.
            if !(follower.is_gone && flags.is_empty()) {
                add(Source::Follower(index), follower.socket(), flags);
            }
        }
        match poll(&mut polled, None::<&Timespec>) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory for a moment, at most: nothing here is a wrong descriptor.
            Err(_) => return Vec::new(),
        }
        let ready = sources.into_iter().zip(polled.iter().map(PollFd::revents));
        ready.filter(|(_, flags)| !flags.is_empty()).collect()
    }

    /// Takes a connection in.
    fn admit(&mut self, role: Role, connection: Connection) {
        let Ok(mut follower) = Follower::new(role, connection) else { return };
        if self.followers.len() >= FOLLOWERS_MAX {
            follower.finish(&Reply::Failed(too_many_followers()));
        } else if role == Role::Input && !self.begun.input.is_open() {
            follower.finish(&Reply::Failed(input_closed()));
        } else if role != Role::Input {
            follower.reply(&Reply::Started { pid: self.begun.handle.pid.as_raw_pid().unsigned_abs() });
        }
        self.followers.push(follower);
    }

    /// Waits for the process, which has ended.
    fn collect(&mut self) {
        self.sandbox.table().remove(&self.begun.handle);
        let status = waitid(WaitId::PidFd(self.begun.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
        let code = status.as_ref().and_then(rustix::process::WaitIdStatus::exit_status).map(Exit::Code);
        let signal = status.as_ref().and_then(rustix::process::WaitIdStatus::terminating_signal).map(Exit::Signal);
        // One of both is there, unless somebody else waited for it: nobody does.
        self.exit = code.or(signal).or(Some(Exit::Code(-1)));
        self.begun.input.close();
        self.timer = None;
    }

    fn time_is_over(&mut self) {
        self.timer = None;
        if self.exit.is_none() {
            self.is_timed_out = true;
            end_tree(self.begun.handle.pid);
        } else {
            self.begun.outputs.iter_mut().for_each(super::output::Output::cut);
        }
    }

    fn read(&mut self, index: usize, flags: PollFlags) {
        // Another output of this turn may have put a follower behind.
        if self.followers.iter().any(Follower::is_behind) {
            return;
        }
        let output = &mut self.begun.outputs[index];
        if !flags.contains(PollFlags::IN) {
            return output.end();
        }
        self.buffer.resize(OUTPUT_CHUNK_BYTES, 0);
        let count = output.read(&mut self.buffer);
        let followers = self.followers.iter_mut().filter(|follower| follower.role != Role::Input && !follower.is_gone);
        let mut is_followed = false;
        for follower in followers {
            is_followed = true;
            if count > 0 {
                follower.send(output.kind, &self.buffer[..count]);
            }
        }
        if !is_followed {
            self.begun.handle.drop_output(count);
        }
    }

    fn serve(&mut self, index: usize, flags: PollFlags) {
        let follower = &mut self.followers[index];
        if flags.contains(PollFlags::OUT) {
            follower.flush();
        }
        if flags.contains(PollFlags::IN) && !self.begun.input.is_waiting() {
            self.sandbox.refresh_view();
            follower.receive(&mut self.begun.input);
        }
        if flags.intersects(PollFlags::HUP | PollFlags::ERR) && !follower.is_gone {
            follower.lose();
        }
    }

    /// Answers those who sent input: when they have sent all of it, and when nothing can take more.
    fn settle_input(&mut self) {
        let input = &mut self.begun.input;
        let is_over = self.exit.is_some();
        for follower in self.followers.iter_mut().filter(|follower| follower.role == Role::Input && !follower.is_over())
        {
            if is_over {
                // What ended the process may have been this input: its sender need not have said yet that it is all.
                follower.drain(input);
            }
            if follower.is_over() || follower.is_reading() || input.is_waiting() {
                continue;
            }
            let reply = if follower.is_passed_on(input) { Reply::Done } else { Reply::Failed(input_closed()) };
            follower.finish(&reply);
        }
    }

    fn set_timer(&mut self, ms: u64) {
        let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        let nanoseconds = i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0);
        let value = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let made = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .and_then(|timer| timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once).map(|_| timer));
        match made {
            Ok(timer) => self.timer = Some(timer),
            // Without a timer, time is over now rather than never.
            Err(_) => self.time_is_over(),
        }
    }

    /// Tells everyone, and waits until they have heard it.
    fn finish(&mut self) {
        let exit = self.exit.unwrap_or(Exit::Code(-1));
        for (role, connection) in self.begun.handle.take_mail(true) {
            self.admit(role, connection);
        }
        for output in self.begun.outputs.drain(..).filter(super::output::Output::is_left) {
            self.sandbox.leave(output.descriptor);
        }
        self.settle_input();
        for follower in self.followers.iter_mut().filter(|follower| follower.role != Role::Input) {
            follower.finish(&Reply::Exited { exit, timed_out: self.is_timed_out });
        }
        self.buffer = Vec::new();
        self.timer = None;
        self.followers.retain(|follower| !follower.is_over());
        while !self.followers.is_empty() {
            self.turn();
        }
    }
}

fn input_closed() -> Failure {
    Failure::new(Code::Conflict, "failed to send input: the process takes none").with("kind", "stdin")
}
