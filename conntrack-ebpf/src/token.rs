//! Tokens: what the table did to a flow, left by its refusals and evictions, taken by what comes of them.
//!
//! The namespace is left out of every match: the host's table refuses or loses the entry, the pod sees what comes of
//! it.
//!
//! What is decided before a call is not kept as a truth value until after it, here and in who calls this, but decided
//! after it from what was read: the verifier of 5.10 loses track of constants that wait on the stack, and takes out the
//! wrong branch.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_ktime_get_ns};
use conntrack_common::{
    Event, EventKind, EvictionToken, FlowKey, RefusalToken, Tuple,
    event::{FLAG_DATAGRAM, FLAG_LOOKUP, FLAG_NAT, FLAG_REPEATED, FLAG_REPLY, FLAG_SAME_FLOW},
    token::{
        DNS_PORT, EVICTIONS_LEFT, INVALID_WINDOW_NS, LOOKUP_WINDOW_NS, PRESSED_BY_EVICTION,
        PRESSED_BY_REFUSAL, REFUSALS_LEFT, RETRANSMIT_NS, STALL_WINDOW_NS, TOKEN_LET_IN, TOKEN_STALLED,
    },
};

use crate::{
    kernel::{self, IPPROTO_TCP, IPPROTO_UDP, IPS_NAT_MASK},
    maps::{EVICTIONS, PRESSED, REFUSALS, TOKENS, control, offsets},
    table::add_one,
};

/// Counts a token that was left, or taken. One that takes the place of another under its key counts once more: the daemon
/// makes the most of it, not the least.
#[inline(always)]
fn count(word: u32, done: Result<(), i32>) {
    if done.is_ok()
        && let Some(counted) = TOKENS.get_ptr_mut(word)
    {
        // SAFETY: a live value of an array.
        unsafe { add_one(counted) };
    }
}

/// Leaves the token of an eviction under both tuples; their inverses share the keys. Only of a translated entry: packets of
/// any other arrive as before, make it anew, and nobody resets a connection for that. Nor of one that a reset has gone
/// through: that is still on its way to who will be reset by it.
#[inline(never)]
pub(crate) fn evicted(ct: u64, kind: u32, netns: u32) {
    let status = kernel::ct_status(ct);
    if status & IPS_NAT_MASK == 0 {
        return;
    }
    // One after the other: what both reads left in registers, the verifier of 5.10 cannot tell apart.
    let Some(orig) = kernel::tuple(ct + offsets().ct_orig() as u64) else { return };
    if orig.protonum != IPPROTO_TCP || kernel::ct_is_reset(ct) {
        return;
    }
    let Some(reply) = kernel::tuple(ct + offsets().ct_reply() as u64) else { return };
    // SAFETY: no arguments.
    let ktime_ns = unsafe { bpf_ktime_get_ns() };
    let token = EvictionToken { ktime_ns, kind, netns, status, matched: 0, ct: 0, orig, reply };
    press(PRESSED_BY_EVICTION, ktime_ns);
    count(EVICTIONS_LEFT, EVICTIONS.insert(orig.flow_key(), &token, BPF_ANY.into()));
    count(EVICTIONS_LEFT, EVICTIONS.insert(reply.flow_key(), &token, BPF_ANY.into()));
}

/// Leaves the token of an INVALID packet of a translated entry: it goes on untranslated, to somebody who knows of no such
/// connection and will reset it. One that the kernel only ignores (it logs that alike) goes on translated, and nobody
/// resets its own tuple.
#[inline(never)]
pub(crate) fn invalid(skb: u64, ct: u64) {
    let status = kernel::ct_status(ct);
    if status & IPS_NAT_MASK == 0 {
        return;
    }
    let Some(orig) = kernel::tuple(ct + offsets().ct_orig() as u64) else { return };
    let Some(reply) = kernel::skb_tuple(skb) else { return };
    let token = EvictionToken {
        // SAFETY: no arguments.
        ktime_ns: unsafe { bpf_ktime_get_ns() },
        kind: EventKind::Invalid as u32,
        netns: kernel::ct_netns(ct),
        status,
        matched: 0,
        ct,
        orig,
        reply,
    };
    count(EVICTIONS_LEFT, EVICTIONS.insert(reply.flow_key(), &token, BPF_ANY.into()));
}

/// Completes the event of a reset with the token of an eviction or an INVALID packet, if its flow has one that is not
/// too old. A function of its own: the keys and the caller's event together would not leave `emit::send` room on the stack.
#[inline(never)]
pub(crate) fn of_eviction(event: &mut Event) -> bool {
    let Some(token) = EVICTIONS.get_ptr_mut(event.orig.flow_key()) else { return false };
    // SAFETY: a live map value; `matched` is a mark, not a book.
    let token = unsafe { &mut *token };
    let invalid = token.kind == EventKind::Invalid as u32;
    let window = if invalid { INVALID_WINDOW_NS } else { control().reset_window_ns };
    if event.ktime_ns.wrapping_sub(token.ktime_ns) > window {
        return false;
    }
    // What answers a packet that went on untranslated finds no entry to go through. One that went through it, or that
    // came when it was deleted, has another cause.
    if token.kind == EventKind::Invalid as u32 && !kernel::ct_is_open(token.ct, &token.orig) {
        return false;
    }
    // A packet the other way had been translated, before the entry went or beside the INVALID one: it is answered as it
    // would have been anyway.
    if event.kind == EventKind::ResetSent as u32
        && event.orig.sport == token.reply.dport
        && event.orig.saddr == token.reply.daddr
    {
        return false;
    }
    event.reply = token.orig;
    event.status = token.status;
    event.token_netns = token.netns;
    event.token_ktime_ns = token.ktime_ns;
    event.token_kind = token.kind;
    event.flags = FLAG_REPLY;
    if token.status & IPS_NAT_MASK != 0 {
        event.flags |= FLAG_NAT;
    }
    // Both ends of one connection may see a reset, under either of its tuples: it is counted once.
    if token.matched != 0 {
        event.flags |= FLAG_REPEATED;
    }
    mark(token.orig.flow_key());
    mark(token.reply.flow_key());
    true
}

#[inline(always)]
fn mark(key: FlowKey) {
    if let Some(token) = EVICTIONS.get_ptr_mut(key) {
        // SAFETY: as above.
        unsafe { (*token).matched += 1 };
    }
}

/// Is there a token of a refusal that may still matter?
#[inline(always)]
pub(crate) fn pressed() -> bool {
    pressed_by(PRESSED_BY_REFUSAL)
}

#[inline(always)]
fn pressed_by(word: u32) -> bool {
    // SAFETY: a live value of an array.
    PRESSED.get_ptr(word).is_some_and(|last| unsafe { core::ptr::read_volatile(last) } != 0)
}

#[inline(always)]
fn press(word: u32, now: u64) {
    if let Some(last) = PRESSED.get_ptr_mut(word) {
        // SAFETY: a live value of an array; whichever processor writes last, it is of now.
        unsafe { core::ptr::write_volatile(last, now) };
    }
}

/// Leaves or renews the token of a packet that was refused, or lost an insert race. A datagram's loss is an outcome by
/// itself: the first of a flow is marked as one.
#[inline(never)]
pub(crate) fn refused(event: &mut Event) {
    if event.orig.protonum != IPPROTO_UDP && event.orig.protonum != IPPROTO_TCP {
        return;
    }
    let now = event.ktime_ns;
    press(PRESSED_BY_REFUSAL, now);
    let key = event.orig.flow_key();
    let Some(token) = REFUSALS.get_ptr_mut(key) else {
        let token = RefusalToken {
            first_ns: now,
            last_ns: now,
            kind: event.kind,
            netns: event.netns,
            refusals: 1,
            bare: 0,
            flags: 0,
            pad: 0,
            orig: event.orig,
            reply: Tuple::default(),
        };
        count(REFUSALS_LEFT, REFUSALS.insert(key, &token, BPF_ANY.into()));
        return datagram_lost(event);
    };
    // SAFETY: a live map value; two processors may renew it at once, for packets of one flow at one time.
    let token = unsafe { &mut *token };
    let over = if event.orig.protonum == IPPROTO_UDP {
        now.wrapping_sub(token.first_ns) > LOOKUP_WINDOW_NS
    } else {
        token.flags & TOKEN_LET_IN != 0 || now.wrapping_sub(token.last_ns) > control().connect_window_ns
    };
    token.last_ns = now;
    token.kind = event.kind;
    token.netns = event.netns;
    if over {
        token.first_ns = now;
        token.refusals = 1;
        token.bare = 0;
        token.flags = 0;
        datagram_lost(event);
    } else {
        token.refusals += 1;
    }
}

/// If it is a datagram, its loss is an outcome.
#[inline(always)]
fn datagram_lost(event: &mut Event) {
    if event.orig.protonum == IPPROTO_UDP {
        event.flags |= if event.orig.dport == DNS_PORT { FLAG_DATAGRAM | FLAG_LOOKUP } else { FLAG_DATAGRAM };
    }
}

/// The table has made an entry: what was refused of its flow before is made good, and so is its eviction.
#[inline(always)]
pub(crate) fn let_in(ct: u64) {
    if pressed() {
        made_good(ct);
    }
    if pressed_by(PRESSED_BY_EVICTION) {
        made_anew(ct);
    }
}

/// The very entry that was evicted, translated as it was: its packets arrive as before. Or one that its end begins anew
/// with a SYN, whatever it is translated to now. If that is reset one day, it is for another reason.
#[inline(never)]
fn made_anew(ct: u64) {
    let Some(orig) = kernel::tuple(ct + offsets().ct_orig() as u64) else { return };
    let Some(token) = eviction_of(&orig) else { return };
    // SAFETY: a live map value.
    let token = unsafe { &*token };
    if token.ct != 0 || token.netns != kernel::ct_netns(ct) {
        return;
    }
    let Some(reply) = kernel::tuple(ct + offsets().ct_reply() as u64) else { return };
    if token.orig != orig {
        return;
    }
    if token.reply == reply {
        forget(&reply);
    } else if orig.protonum != IPPROTO_TCP || !kernel::ct_begins(ct) {
        return;
    }
    forget(&orig);
}

/// These have frames of their own: a key is forty bytes.
#[inline(never)]
fn eviction_of(tuple: &Tuple) -> Option<*mut EvictionToken> {
    EVICTIONS.get_ptr_mut(tuple.flow_key())
}

#[inline(never)]
fn forget(tuple: &Tuple) {
    count(EVICTIONS_LEFT + 1, EVICTIONS.remove(tuple.flow_key()));
}

#[inline(never)]
fn made_good(ct: u64) {
    let Some(orig) = kernel::tuple(ct + offsets().ct_orig() as u64) else { return };
    let key = orig.flow_key();
    let Some(token) = REFUSALS.get_ptr_mut(key) else { return };
    // SAFETY: a live map value.
    let token = unsafe { &mut *token };
    // A pod's own table lets in what the host's refuses.
    if token.netns != kernel::ct_netns(ct) {
        return;
    }
    if orig.protonum == IPPROTO_UDP {
        count(REFUSALS_LEFT + 1, REFUSALS.remove(key));
        return;
    }
    token.flags |= TOKEN_LET_IN;
    if kernel::ct_status(ct) & IPS_NAT_MASK != 0 {
        also_by_reply(ct, token);
    }
}

/// The other end of a translated connection knows it by its reply tuple.
#[inline(never)]
fn also_by_reply(ct: u64, token: &mut RefusalToken) {
    let Some(reply) = kernel::tuple(ct + offsets().ct_reply() as u64) else { return };
    token.reply = reply;
    count(REFUSALS_LEFT, REFUSALS.insert(reply.flow_key(), &*token, BPF_ANY.into()));
}

/// What the packet of a refused flow tells, now that it is seen: `bare`, its loss hurts nobody. Is it sent again, of a
/// connection that was open, and its stall not told yet? Then completes the event.
#[inline(never)]
pub(crate) fn seen_again(event: &mut Event, bare: bool) -> bool {
    let Some(token) = REFUSALS.get_ptr_mut(event.orig.flow_key()) else { return false };
    // SAFETY: a live map value.
    let token = unsafe { &mut *token };
    if bare {
        token.bare += 1;
        return false;
    }
    if token.flags & TOKEN_STALLED != 0 || event.ktime_ns.wrapping_sub(token.first_ns) < RETRANSMIT_NS {
        return false;
    }
    token.flags |= TOKEN_STALLED;
    complete(event, token);
    true
}

/// Completes the event of a retransmission, if data of its flow was refused, and that was not told yet.
#[inline(never)]
pub(crate) fn of_stall(event: &mut Event) -> bool {
    let Some(token) = REFUSALS.get_ptr_mut(event.orig.flow_key()) else { return false };
    // SAFETY: a live map value.
    let token = unsafe { &mut *token };
    if token.flags & TOKEN_STALLED != 0
        || token.refusals <= token.bare
        || event.ktime_ns.wrapping_sub(token.last_ns) > STALL_WINDOW_NS
    {
        return false;
    }
    token.flags |= TOKEN_STALLED;
    complete(event, token);
    true
}

/// Takes the token of the refusals of a connection attempt and completes the event of what came of it, which is of the
/// end that made the connection: `FLAG_SAME_FLOW` says that it was seen there. False: there is none, its other end took
/// it, or it is too old.
#[inline(never)]
pub(crate) fn of_attempt(event: &mut Event, let_in_too: bool) -> bool {
    let Some(token) = found(&event.orig) else { return false };
    // SAFETY: a live map value.
    let token = unsafe { &mut *token };
    let (last_ns, flags) = (token.last_ns, token.flags);
    complete(event, token);
    // Whoever made the connection, and where: the other end has another tuple.
    if event.orig.saddr != token.orig.saddr || event.orig.sport != token.orig.sport {
        event.orig = token.orig;
        event.netns = token.netns;
        event.flags &= !FLAG_SAME_FLOW;
    }
    if token.reply.l3num != 0 {
        remove(&token.reply);
    }
    // Of two that take it at once, one succeeds.
    if !remove(&event.orig) {
        return false;
    }
    event.ktime_ns.wrapping_sub(last_ns) <= control().connect_window_ns
        && (let_in_too || flags & TOKEN_LET_IN == 0)
}

/// These have frames of their own: a key is forty bytes.
#[inline(never)]
fn found(tuple: &Tuple) -> Option<*mut RefusalToken> {
    REFUSALS.get_ptr_mut(tuple.flow_key())
}

#[inline(never)]
fn remove(tuple: &Tuple) -> bool {
    let removed = REFUSALS.remove(tuple.flow_key());
    count(REFUSALS_LEFT + 1, removed);
    removed.is_ok()
}

#[inline(always)]
fn complete(event: &mut Event, token: &RefusalToken) {
    event.reply = token.orig;
    event.status = token.refusals;
    event.token_netns = token.netns;
    event.token_ktime_ns = token.first_ns;
    event.token_kind = token.kind;
    event.flags |= FLAG_REPLY | FLAG_SAME_FLOW;
}
