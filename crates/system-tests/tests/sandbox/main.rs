//! The sandbox runtime as its users meet it: the real daemon, real privileges, real sandboxes.
//!
//! Tests run as root, on a state directory of their own; where they are not root they fail saying so. A file a subject.
#![allow(clippy::unwrap_used)]

mod agent;
mod boundary;
mod code;
mod command;
mod containment;
mod data;
mod databases;
mod e2b;
mod e2b_data;
mod e2b_mcp;
mod e2b_network;
mod e2b_surface;
mod exhaustion;
mod fixture;
mod guest;
mod image;
mod input;
mod interpreter;
mod lifecycle;
mod listing;
mod metrics;
mod moving;
mod names;
mod observability;
mod packages;
mod preview;
mod profile;
mod recovery;
mod scopes;
mod swerex;
mod templates;
mod view;
mod walls;
