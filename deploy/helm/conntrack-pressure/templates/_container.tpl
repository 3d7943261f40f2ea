{{/* What the daemon may do. */}}
{{- define "conntrack-pressure.securityContext" -}}
{{- if eq .Values.profile "privileged" -}}
# BPF, and entering the network namespaces of pods.
privileged: true
{{- else -}}
privileged: false
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  add:
    # bpf(2): maps and programs. SYS_ADMIN implies it and the next; named for what they are wanted for.
    - BPF
    # perf_event_open(2) for kprobes, and the helpers that read kernel memory.
    - PERFMON
    # Dumps of the tables by ctnetlink, and the rulesets that exempt packets from tracking.
    - NET_ADMIN
    # setns(2) into the network namespaces of pods, and the BTF of modules by its id: without it there is no fentry.
    - SYS_ADMIN
    # The namespaces and cgroups of other users' processes in /proc.
    - SYS_PTRACE
    # To hear of addresses that change in other namespaces; without it a new pod is known up to 5 s later.
    - NET_BROADCAST
    # Kernels before 5.11 count maps against RLIMIT_MEMLOCK; the daemon lifts it.
    - SYS_RESOURCE
{{- if include "conntrack-pressure.appArmorField" . }}
# The runtime's own profile lets nobody read the namespaces of processes outside it, whatever the capabilities.
appArmorProfile:
  type: Unconfined
{{- end }}
seccompProfile:
  # It allows bpf, perf_event_open and setns to who has the capability for them.
  type: RuntimeDefault
{{- end }}
readOnlyRootFilesystem: true
runAsUser: 0
{{- end -}}

{{/* Kubernetes has a field for it from 1.30 on, and took an annotation before. */}}
{{- define "conntrack-pressure.appArmorField" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end -}}

{{/* The kubelet asks the node's address, where nobody listens if listenAddress is another one. */}}
{{- define "conntrack-pressure.probeHost" -}}
{{- if not (has .Values.listenAddress (list "" "0.0.0.0" "[::]")) -}}
host: {{ .Values.listenAddress | trimAll "[]" | quote }}
{{- end -}}
{{- end -}}

{{- define "conntrack-pressure.args" -}}
- run
- --web.listen-address
- {{ printf "%s:%v" (default "0.0.0.0" .Values.listenAddress) .Values.port | quote }}
- --log.format
- {{ .Values.logFormat }}
{{- if ne .Values.mechanism "auto" }}
- --probe.mechanism
- {{ .Values.mechanism }}
{{- end }}
{{- if ne (int .Values.maxPods) 128 }}
- --max-pods
- {{ .Values.maxPods | quote }}
{{- end }}
{{- with .Values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}
