//! Look-alikes: what ends as connections do that a table has hurt, and none has.

use std::net::IpAddr;
use std::time::Duration;

use super::attempts::{Script, Then, attempt};
use super::case::{Kind, Maker};
use super::draw::Draw;
use crate::lab::node::VOIDS;

/// The rules of a router: those that drop and reject, and, if its table is full, those that keep the look-alikes out of
/// it. A REJECT's own packets too: a full table would refuse them.
pub(super) fn rules(untracked: bool) -> String {
    let ports = if untracked { "tcp dport 100-199 notrack; tcp sport 100-199 notrack;" } else { "" };
    format!(
        "table inet lookalikes {{ \
           chain raw {{ type filter hook prerouting priority -300; tcp dport 110 drop; {ports} }}; \
           chain own {{ type filter hook output priority -300; {ports} }}; \
           chain forward {{ type filter hook forward priority 0; ct state invalid tcp sport 92 drop; tcp dport 108 reject with tcp reset; \
             tcp dport 109 reject; tcp dport 111 drop; }}; }}"
    )
}

/// A look-alike of this kind, to servers at these addresses.
///
/// # Errors
/// When there are more cases than ports.
pub(super) fn script(
    maker: &Maker,
    draw: &mut Draw,
    kind: Kind,
    servers: [IpAddr; 2],
) -> anyhow::Result<Script> {
    let case = maker.case(draw, kind, if kind == Kind::Swallowed { VOIDS } else { servers })?;
    let patience = draw.between(1_500, 2_500);
    // Every other attempt that nothing answers is given up by the kernel.
    let retries = (draw.below(2) == 0).then_some(1);
    Ok(match kind {
        Kind::Aborted => attempt(case, None, patience, Then::Abort),
        Kind::LostSyn | Kind::LostData => attempt(case, None, Duration::from_secs(4), Then::Send),
        Kind::ServerCloses | Kind::Overloaded => attempt(case, None, patience, Then::Hear),
        _ if retries.is_some() => attempt(case, retries, Duration::from_secs(5), Then::Abort),
        _ => attempt(case, None, patience, Then::Abort),
    })
}
