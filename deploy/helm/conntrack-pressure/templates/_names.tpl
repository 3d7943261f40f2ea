{{/* The name of everything in the release. */}}
{{- define "conntrack-pressure.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "conntrack-pressure.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "conntrack-pressure.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What finds the daemon's pods. It may never change: a DaemonSet's selector cannot. */}}
{{- define "conntrack-pressure.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
{{- if eq .Release.Service "Helm" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- end -}}

{{- define "conntrack-pressure.labels" -}}
{{ include "conntrack-pressure.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- if eq .Release.Service "Helm" }}
app.kubernetes.io/managed-by: Helm
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- end -}}

{{- define "conntrack-pressure.image" -}}
{{- with .Values.image -}}
{{- $name := ternary .repository (printf "%s/%s" .registry .repository) (empty .registry) -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}
