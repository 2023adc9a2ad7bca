//! The formats of this crate, driven from outside.

mod advert;
mod batch;
mod bits;
mod by_hand;
mod codec;
mod contexts;
mod equivocation;
mod event;
mod fixture;
mod golden;
mod grant;
mod incarnation;
mod malformed;
mod tick;
