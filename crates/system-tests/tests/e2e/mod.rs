//! The service from end to end: the real binary against real sockets, as its clients and operators see it.

mod access;
mod asking;
mod budgets;
mod clients;
mod command;
mod contract;
mod disconnects;
mod drain;
mod history;
mod lives;
mod misbehaviour;
mod operator;
mod run;
mod service;
mod sessions;
mod streams;
mod tasks;
mod telemetry;
mod tools;
mod waits;
mod wire;
