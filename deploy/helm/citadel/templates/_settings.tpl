{{/* The sections of a cluster that are on, as settings. */}}
{{- define "citadel.cluster" -}}
{{- $context := index . 0 }}{{ $given := index . 1 -}}
{{- $cluster := dict "name" $given.name }}
{{- range $section := list "joining" "workloads" "istio" "bundles" "signers" "gateways" }}
{{- with index $given $section }}{{ $_ := set $cluster $section . }}
{{- else }}{{ if kindIs "map" (index $given $section) }}{{ $_ := set $cluster $section dict }}{{ end }}
{{- end }}
{{- end }}
{{- if hasKey $cluster "joining" }}
{{- $account := printf "%s/%s-agent" (include "citadel.agentNamespace" $context) (include "citadel.name" $context) }}
{{- $accounts := $cluster.joining.service_accounts }}
{{- /* The agents of this release always may, beside those that are listed; in another cluster they are not ours to name. */}}
{{- if and $accounts $context.Values.agent.enabled (not $given.kubeconfigSecret) }}{{ $accounts = prepend $accounts $account | uniq }}{{ end }}
{{- $_ := set $cluster "joining" (merge (dict "service_accounts" ($accounts | default (list $account))) $cluster.joining) }}
{{- end }}
{{- if hasKey $cluster "bundles" }}
{{- $maps := list (dict "name" "citadel-bundle" "key" "bundle.pem") }}
{{- if hasKey $cluster "istio" }}{{ $maps = append $maps (dict "name" "istio-ca-root-cert" "key" "root-cert.pem") }}{{ end }}
{{- /* Written out, so that rights and checks go by what is kept. */}}
{{- if not (hasKey $cluster.bundles "config_maps") }}{{ $_ := set $cluster "bundles" (merge (dict "config_maps" $maps) $cluster.bundles) }}{{ end }}
{{- end }}
{{- with $given.kubeconfigSecret }}
{{- $_ := set $cluster "api" (dict "kubeconfig" (printf "/etc/citadel/clusters/%s/kubeconfig" $given.name)) }}
{{- end }}
{{- toYaml $cluster }}
{{- end }}

{{/* server.yaml */}}
{{- define "citadel.serverSettings" -}}
{{- $server := .Values.server }}{{ $keys := dict -}}
{{- if $server.kek.secretName }}{{ $_ := set $keys "kek_env" "CITADEL_KEK" }}{{ end }}
{{- $clusters := list }}
{{- $own := include "citadel.cluster" (list . .Values.cluster) | fromYaml }}
{{- if gt (len $own) 1 }}{{ $clusters = append $clusters $own }}{{ end }}
{{- range .Values.remoteClusters }}
{{- $clusters = append $clusters (include "citadel.cluster" (list $ .) | fromYaml) }}
{{- end }}
{{- $host := include "citadel.host" . }}
{{- $settings := dict
  "trust_domain" (required "trustDomain is needed: the part of every identity after spiffe://" .Values.trustDomain)
  "data_dir" "/var/lib/citadel/server"
  "listen" (dict
    "bootstrap" (printf "%s:8443" .Values.listenHost)
    "agents" (printf "%s:8444" .Values.listenHost)
    "probes_outside" true
    "probes" (printf "%s:8480" .Values.listenHost)
    "admin_socket" "/run/citadel/admin.sock")
  "advertise" (dict
    "bootstrap" ($server.advertise.bootstrap | default (printf "%s:8443" $host))
    "agents" ($server.advertise.agents | default (printf "%s:8444" $host))
    "dns_names" (concat (list $host (printf "%s.cluster.local" $host)) $server.dnsNames))
  "keys" $keys }}
{{- if eq $server.store.kind "postgresql" }}{{ $_ := set $settings "store_url_env" "CITADEL_STORE_URL" }}{{ end }}
{{- with $clusters }}{{ $_ := set $settings "kubernetes" (dict "clusters" .) }}{{ end }}
{{- toYaml (mergeOverwrite (deepCopy $server.settings) $settings) }}
{{- end }}

{{/* agent.yaml */}}
{{- define "citadel.agentSettings" -}}
{{- $agent := .Values.agent }}{{ $host := include "citadel.host" . }}
{{- if not (or .Values.server.enabled (and $agent.servers.bootstrap $agent.servers.agents)) }}
{{- fail "agent.servers.bootstrap and agent.servers.agents are needed where server.enabled is false" }}
{{- end }}
{{- $settings := dict
  "trust_domain" (required "trustDomain is needed: the part of every identity after spiffe://" .Values.trustDomain)
  "data_dir" "/var/lib/citadel/agent"
  "socket" "/run/citadel/agent.sock"
  "admin_socket" "/run/citadel-agent/admin.sock"
  "servers" ($agent.servers.agents | default (list (printf "%s:8444" $host)))
  "join" (dict
    "bundle_file" (printf "/etc/citadel/bundle/%s" $agent.bundle.key)
    "servers" ($agent.servers.bootstrap | default (list (printf "%s:8443" $host)))
    "k8s_psat" (dict "cluster" .Values.cluster.name "token_file" "/var/run/secrets/citadel/token"))
  "probes_outside" true
  "probes" (printf "%s:8481" .Values.listenHost)
  "kubernetes" (dict "node_name_env" "NODE_NAME") }}
{{- if $agent.authzPolicies }}
{{- $_ := set $settings "authz" (dict "policy_file" "/etc/citadel/policies/policies.yaml") }}
{{- end }}
{{- toYaml (mergeOverwrite (deepCopy $agent.settings) $settings) }}
{{- end }}
