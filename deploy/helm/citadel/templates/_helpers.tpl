{{- define "citadel.name" -}}
{{- if contains "citadel" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-citadel" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "citadel.agentNamespace" -}}
{{ .Values.agent.namespace | default (printf "%s-agents" .Release.Namespace) }}
{{- end }}

{{/* What tells the pods of a component, given as (list . "server"), from all others. */}}
{{- define "citadel.selector" -}}
app.kubernetes.io/name: citadel
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "citadel.labels" -}}
{{ include "citadel.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "citadel-%s" (index . 0).Chart.Version }}
{{- end }}

{{- define "citadel.image" -}}
{{ required "image.repository is needed: where the image of the Dockerfile is" .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The name of the server for who is in this cluster. */}}
{{- define "citadel.host" -}}
{{ include "citadel.name" . }}.{{ .Release.Namespace }}.svc
{{- end }}
