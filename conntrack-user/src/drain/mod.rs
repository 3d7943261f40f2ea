//! Stage two: what the kernel and the probes have to say.
