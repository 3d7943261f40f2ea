//! The fields of log events, as data: docs/events.md is made from it, and every event is checked against it.

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name; `outer.inner` for a field within a field.
    pub name: &'static str,
    /// Its JSON type.
    pub json: &'static str,
    /// When it is there.
    pub when: &'static str,
    /// What it says.
    pub says: &'static str,
}

const fn field(name: &'static str, json: &'static str, when: &'static str, says: &'static str) -> Field {
    Field { name, json, when, says }
}

const KNOWN: &str = "when known";
const TUPLE: &str = "when the record has a tuple";
const CULPRIT: &str = "refused by a full table, or what came of that; and the owners of entries are counted";
const SERVICE: &str = "the destination is a Service's that the Kubernetes API has told of";
const EFFECT: &str = "the table caused an effect";
const TOKEN: &str = "what came of a refusal, an eviction, a race lost or an INVALID packet";

/// All fields, in the order in which they are printed.
pub const FIELDS: &[Field] = &[
    field("ts", "string", "always", "When it happened (not when it was read), RFC 3339, UTC, microseconds."),
    field("level", "string", "always", "`warn` where a connection was hurt, else `info`."),
    field(
        "event",
        "string",
        "always",
        "`refused`, `inferred_refusal`, `evicted`, `clash_lost`, or what came of one: `reset`, `connect_timeout`, `slow_connect`, `stall`.",
    ),
    field(
        "reason",
        "string",
        "refused, inferred_refusal",
        "`table_full`, or `no_memory` when the kernel had none for an entry.",
    ),
    field(
        "effect",
        "string",
        "a connection was hurt, and the table did it",
        "`reset`, `connect_timeout`, `slow_connect`, `stall` (of an open connection, or of a lookup by UDP) or `udp_refused`.",
    ),
    field(
        "cause",
        "string",
        "evicted, and what has an effect",
        "Of an eviction: `early_drop` (room for a new entry) or `gc` (the garbage collector under pressure). Of an effect: `table_full`, `no_memory`, `evicted`, `invalid`, `race` or `unrelated`.",
    ),
    field("rule", "string", EFFECT, "The rule by which that is concluded."),
    field("by", "string", "connect_timeout", "Who gave the connection up: `kernel` or `application`."),
    field("direction", "string", "reset", "`sent` or `received` by this node."),
    field(
        "confidence",
        "string",
        "always",
        "`exact`: seen at the function that does it; of an effect, its token proves the cause. `window`: the reset was received soon after an INVALID packet of its flow, something else could have made it. `inferred`: concluded.",
    ),
    field(
        "table",
        "string",
        "always",
        "Whose table: `host`, or `netns:` and the namespace's inode; of an effect, the table that caused it.",
    ),
    field("netns", "number", "always", "Inode of the network namespace where it happened."),
    field("proto", "string", TUPLE, "`tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, … or the protocol's number."),
    field("src", "string", TUPLE, "Source address, original direction; of an effect, as its end sees it."),
    field("sport", "number", "tuple of a protocol with ports", "Source port."),
    field("dst", "string", TUPLE, "Destination address."),
    field("dport", "number", "tuple of a protocol with ports", "Destination port."),
    field("icmp_id", "number", "tuple of ICMP", "Echo id."),
    field("icmp_type", "number", "tuple of ICMP", "Type."),
    field("icmp_code", "number", "tuple of ICMP", "Code."),
    field("reply_src", "string", "translated entry (NAT)", "Source address of the reply direction."),
    field(
        "reply_sport",
        "number",
        "translated entry (NAT) with ports",
        "Source port of the reply direction.",
    ),
    field("reply_dst", "string", "translated entry (NAT)", "Destination address of the reply direction."),
    field(
        "reply_dport",
        "number",
        "translated entry (NAT) with ports",
        "Destination port of the reply direction.",
    ),
    field("owner", "string", "always", "Whose connection: `pod`, `cgroup`, `host`, `external` or `unknown`."),
    field("namespace", "string", "owner is a pod, and known", "Kubernetes namespace."),
    field("pod", "string", "owner is a pod", "Pod; its uid where the name is not known."),
    field("pod_uid", "string", "owner is a pod", "Uid of the pod."),
    field("cgroup", "string", "owner is a cgroup", "Path below the cgroup root."),
    field(
        "evidence",
        "string",
        "always",
        "What proved the owner: `namespace`, `device`, `source_address`, `destination_address`, `socket_cgroup`, `entry` (it was counted as the owner's when it was made) or `none`.",
    ),
    field("device", "string", KNOWN, "The packet's network device."),
    field("responder.owner", "string", "a local pod is the responder", "As `owner`, for the responder."),
    field("responder.namespace", "string", "responder is a pod, and known", "Kubernetes namespace."),
    field("responder.pod", "string", "responder is a pod", "Pod."),
    field("responder.pod_uid", "string", "responder is a pod", "Uid of the pod."),
    field("responder.cgroup", "string", "responder is a cgroup", "Path below the cgroup root."),
    field("service_namespace", "string", SERVICE, "Kubernetes namespace of the Service addressed."),
    field(
        "service",
        "string",
        SERVICE,
        "Name of the Service addressed: by its cluster, external or load balancer's address and port, or by a node port at an address of this node.",
    ),
    field("culprit.owner", "string", CULPRIT, "Who held most of the table at the last reading. As `owner`."),
    field("culprit.namespace", "string", "culprit is a pod, and known", "Kubernetes namespace."),
    field("culprit.pod", "string", "culprit is a pod", "Pod."),
    field("culprit.pod_uid", "string", "culprit is a pod", "Uid of the pod."),
    field("culprit.cgroup", "string", "culprit is a cgroup", "Path below the cgroup root."),
    field("culprit.entries", "number", CULPRIT, "Entries it held."),
    field("culprit.percent", "number", CULPRIT, "Part of the table's entries that is, of 100, rounded down."),
    field(
        "token.kind",
        "string",
        TOKEN,
        "What left the token: an eviction by `early_drop` or `gc`; a refusal, `table_full`, `no_memory`, `refused` or `inferred_refusal`; `clash_lost`; or an `invalid` packet.",
    ),
    field("token.refusals", "number", "what came of a refusal", "How many packets had been refused."),
    field(
        "token.age_ms",
        "number",
        TOKEN,
        "Time from the first of what left it to its effect, milliseconds.",
    ),
    field("token.netns", "number", TOKEN, "Inode of the namespace whose table left it."),
    field("token.nat", "boolean", TOKEN, "Was the entry translated?"),
    field("token.proto", "string", TOKEN, "Original tuple of the entry, or would-be entry: protocol."),
    field("token.src", "string", TOKEN, "… source address."),
    field("token.sport", "number", TOKEN, "… source port."),
    field("token.dst", "string", TOKEN, "… destination address."),
    field("token.dport", "number", TOKEN, "… destination port."),
    field("repeated", "boolean", "reset", "Was this connection already counted, by its other end?"),
    field(
        "suppressed",
        "number",
        "always",
        "How many more events of this source and kind were held back since its last one; they are counted all the same.",
    ),
    field("message", "string", "always", "One sentence for people."),
];

const HURT: &str = "somebody was hurt by name";
const FILLED: &str = "cause is `table_full` or `evicted`, and the owners of entries are counted";
const OCCURRED: &str = "there were any";

/// The fields of an episode, in the order in which they are printed.
pub const EPISODE_FIELDS: &[Field] = &[
    field("ts", "string", "always", "Begun: of the first blow; else of the last one."),
    field("level", "string", "always", "`warn` when it begins, else `info`."),
    field("event", "string", "always", "`episode`."),
    field(
        "state",
        "string",
        "always",
        "`begun` (about a second after the first blow), `ended` (128 seconds after the last one), or `cut_off` (this program ended before).",
    ),
    field("cause", "string", "always", "`table_full`, `no_memory`, `evicted`, `invalid` or `race`."),
    field("table", "string", "always", "Whose table: `host`, or `netns:` and the namespace's inode."),
    field("netns", "number", "always", "Inode of the table's network namespace."),
    field("since", "string", "always", "Time of the first blow, RFC 3339."),
    field("seconds", "number", "always", "From the first blow to the last so far."),
    field(
        "count",
        "number",
        "always",
        "Packets refused, entries evicted, or packets that lost a race, so far; of `invalid`, resets.",
    ),
    field("effects.reset", "number", OCCURRED, "Connections that were reset because of it, so far."),
    field("effects.connect_timeout", "number", OCCURRED, "… that were given up."),
    field("effects.slow_connect", "number", OCCURRED, "… that came about late."),
    field("effects.stall", "number", OCCURRED, "… that stalled."),
    field("effects.udp_refused", "number", OCCURRED, "Datagrams lost."),
    field("effects.dns_stall", "number", OCCURRED, "Lookups lost."),
    field("hurt", "number", "always", "How many owners were hurt; beyond 256 the others count as one."),
    field("victim.owner", "string", HURT, "Who was hurt most. As `owner` above."),
    field("victim.namespace", "string", "victim is a pod, and known", "Kubernetes namespace."),
    field("victim.pod", "string", "victim is a pod", "Pod."),
    field("victim.pod_uid", "string", "victim is a pod", "Uid of the pod."),
    field("victim.cgroup", "string", "victim is a cgroup", "Path below the cgroup root."),
    field("victim.count", "number", HURT, "Its part of `count`."),
    field("culprit.owner", "string", FILLED, "Who held most of the table while it lasted. As `owner` above."),
    field("culprit.namespace", "string", "culprit is a pod, and known", "Kubernetes namespace."),
    field("culprit.pod", "string", "culprit is a pod", "Pod."),
    field("culprit.pod_uid", "string", "culprit is a pod", "Uid of the pod."),
    field("culprit.cgroup", "string", "culprit is a cgroup", "Path below the cgroup root."),
    field("culprit.entries", "number", FILLED, "Entries it held."),
    field("culprit.percent", "number", FILLED, "Part of the table's entries that is, of 100, rounded down."),
    field("message", "string", "always", "One sentence: what, who is hurt, who fills it, what to do."),
];
