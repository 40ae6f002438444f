//! Who may send what, where and when: pure machines, `now` is an argument.
//!
//! Nothing here knows a thread or a channel, but the machines come in halves, because the engine
//! does: the main thread owns what is global, each shard owns what its hot loop asks on every
//! request, and only messages travel between the two.
//!
//! | machine | main thread | shard | messages |
//! |---|---|---|---|
//! | [`pacer`] (global rate) | [`pacer::Pacer`] | [`pacer::SlotQueue`] | [`pacer::Slots`] both ways |
//! | [`permits`] (in-flight caps) | [`permits::Permits`] | [`permits::Lease`] | want, return, idle; grant, recall |
//! | [`health`] | [`health::Health`] | [`health::LocalHealth`] | reports; [`health::EndpointView`] |
//! | [`budget`] (rpm, tpm) | [`budget::Budget`] | [`budget::Allowance`] | amounts |
//! | [`search_rate`] | [`search_rate::RateSearch`] | | counts of answers |
//! | [`search_pace`] | [`search_pace::PaceSearch`] | | counts of answers |
//! | [`search_in_flight`] | [`search_in_flight::InFlightSearch`] | | counts of answers |
//! | [`load`] (both searches) | [`load::Load`] | | [`load::Pushback`], counts of answers |
//! | [`slowdown`] (remaining quotas) | [`slowdown::Slowdown`] | | [`slowdown::Remainders`] |
//! | [`balance`] (weights) | | [`balance::Ring`] | |
//! | [`refusal`] | | [`refusal::rule`] | |
//! | [`refusals`] (for load) | | [`refusals::LineRefusals`], [`refusals::History`] | |
//! | [`retry`] | | [`retry::RetryQueue`], [`retry::decide`] | |
//! | [`wait_hint`] | | [`wait_hint::parse`] | |

pub mod balance;
pub mod budget;
pub mod health;
pub mod load;
pub mod pacer;
pub mod permits;
pub mod refusal;
pub mod refusals;
pub mod retry;
pub mod search_in_flight;
pub mod search_pace;
pub mod search_rate;
pub mod slowdown;
pub mod wait_hint;

#[cfg(test)]
mod virtual_time;
