{{/* What a PodMonitor and a ServiceMonitor say of the port; called with (dict "root" . "monitor" .Values.podMonitor). */}}
{{- define "conntrack-pressure.endpoint" -}}
- port: metrics
  path: /metrics
  interval: {{ .monitor.interval }}
  scrapeTimeout: {{ .monitor.scrapeTimeout }}
  # `namespace` and `pod` of a series are whose connections they are.
  honorLabels: true
  relabelings:
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: node
    {{- with .monitor.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "conntrack-pressure.monitorMetadata" -}}
name: {{ include "conntrack-pressure.fullname" .root }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "conntrack-pressure.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
