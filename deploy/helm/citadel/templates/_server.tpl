{{/* What both of its containers have. */}}
{{- define "citadel.serverContainer" -}}
image: {{ include "citadel.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- with .Values.server.kek }}
  {{- if .secretName }}
  - name: CITADEL_KEK
    valueFrom: {secretKeyRef: {name: {{ .secretName }}, key: {{ .secretKey }}}}
  {{- end }}
  {{- end }}
  {{- with .Values.server.store }}
  {{- if eq .kind "postgresql" }}
  - name: CITADEL_STORE_URL
    valueFrom: {secretKeyRef: {name: {{ .secretName }}, key: {{ .secretKey }}}}
  {{- end }}
  {{- end }}
  - {name: HOME, value: /tmp}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources: {{ toYaml .Values.server.resources | nindent 2 }}
volumeMounts:
  - {name: settings, mountPath: /etc/citadel/server.yaml, subPath: server.yaml, readOnly: true}
  - {name: data, mountPath: /var/lib/citadel}
  - {name: run, mountPath: /run/citadel}
  - {name: tmp, mountPath: /tmp}
  {{- range .Values.server.secrets }}
  - {name: secret-{{ .name }}, mountPath: /etc/citadel/secrets/{{ .name }}, readOnly: true}
  {{- end }}
  {{- range .Values.remoteClusters }}
  - {name: cluster-{{ .name }}, mountPath: /etc/citadel/clusters/{{ .name }}, readOnly: true}
  {{- end }}
  {{- with .Values.server.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{/* Those of its Services. */}}
{{- define "citadel.ports" -}}
- {name: bootstrap, port: 8443, targetPort: bootstrap, appProtocol: tls}
- {name: agents, port: 8444, targetPort: agents, appProtocol: tls}
{{- range .Values.server.extraPorts }}
- {name: {{ .name }}, port: {{ .port }}, targetPort: {{ .name }}}
{{- end }}
{{- end }}
