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
const CULPRIT: &str = "refused, and the owners of entries are counted";
const SERVICE: &str = "the destination is a Service's that the Kubernetes API has told of";
const RESET: &str = "reset that matched an eviction";

/// All fields, in the order in which they are printed.
pub const FIELDS: &[Field] = &[
    field("ts", "string", "always", "When it happened (not when it was read), RFC 3339, UTC, microseconds."),
    field("level", "string", "always", "`warn` where a connection was hurt, else `info`."),
    field(
        "event",
        "string",
        "always",
        "`refused`, `inferred_refusal`, `evicted`, `reset` or `clash_lost`. `invalid` is kept for a probe that there is not yet.",
    ),
    field(
        "reason",
        "string",
        "refused, inferred_refusal",
        "`table_full`, or `no_memory` when the kernel had none for an entry.",
    ),
    field(
        "cause",
        "string",
        "evicted, reset",
        "Of an eviction: `early_drop` (room for a new entry) or `gc` (the garbage collector under pressure). Of a reset: `evicted` or `unrelated`.",
    ),
    field("direction", "string", "reset", "`sent` or `received` by this node."),
    field(
        "confidence",
        "string",
        "always",
        "`exact`: seen at the function that does it; of a reset, its token proves the cause. `window`: the reset is of an evicted flow and near in time, something else could have made it. `inferred`: concluded.",
    ),
    field("table", "string", "always", "Whose table: `host`, or `netns:` and the namespace's inode."),
    field("netns", "number", "always", "Inode of the network namespace where it happened."),
    field("proto", "string", TUPLE, "`tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, … or the protocol's number."),
    field("src", "string", TUPLE, "Source address, original direction; of a reset, as its end sees it."),
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
    field("token.kind", "string", "reset that matched a known kind of eviction", "`early_drop` or `gc`."),
    field("token.age_ms", "number", RESET, "Time from the eviction to the reset, milliseconds."),
    field("token.netns", "number", RESET, "Inode of the namespace whose table lost the entry."),
    field("token.nat", "boolean", RESET, "Was the entry translated?"),
    field("token.proto", "string", RESET, "Original tuple of the evicted entry: protocol."),
    field("token.src", "string", RESET, "… source address."),
    field("token.sport", "number", RESET, "… source port."),
    field("token.dst", "string", RESET, "… destination address."),
    field("token.dport", "number", RESET, "… destination port."),
    field("repeated", "boolean", "reset", "Was this connection already counted, by its other end?"),
    field(
        "suppressed",
        "number",
        "always",
        "How many more events of this source and kind were held back since its last one; they are counted all the same.",
    ),
    field("message", "string", "always", "One sentence for people."),
];
