{{/*
The rules of what a server may do in a cluster, by the settings of that cluster. ca/kubernetes/permissions.py has the
same as a table; a test holds both together.
*/}}

{{/* Rules for the whole cluster. */}}
{{- define "citadel.clusterRules" -}}
{{- $istio := .istio | default dict }}
{{- $reviews := or (hasKey . "joining") (and (hasKey . "istio") (not $istio.oidc)) }}
{{- $signers := .signers | default dict }}
{{- $answersPods := and (hasKey . "signers") (ne (toString (get $signers "pod_certificates")) "false") }}
{{- $istioFollows := and (hasKey . "istio") (or (not $istio.oidc) $istio.trusted_node_accounts) }}
{{- $followsPods := or (hasKey . "joining") (hasKey . "workloads") $istioFollows (hasKey . "signers") (hasKey . "gateways") }}
{{- if $reviews }}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
{{- end }}
{{- if $followsPods }}
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
{{- end }}
{{- if or (hasKey . "joining") $istioFollows (hasKey . "signers") }}
- {apiGroups: [""], resources: [pods], verbs: [get]}
{{- end }}
{{- if hasKey . "joining" }}
- {apiGroups: [""], resources: [nodes], verbs: [get]}
{{- end }}
{{- if (.workloads | default dict).service_dns_names }}
- {apiGroups: [""], resources: [services], verbs: [list, watch]}
{{- end }}
{{- with .bundles }}
{{- with .config_maps }}
{{- $names := list }}{{ range . }}{{ $names = append $names .name }}{{ end }}
- {apiGroups: [""], resources: [namespaces], verbs: [list, watch]}
- {apiGroups: [""], resources: [configmaps], verbs: [list, watch, patch], resourceNames: {{ $names | uniq | toJson }}}
# RBAC cannot hold creating to a name.
- {apiGroups: [""], resources: [configmaps], verbs: [create]}
{{- end }}
{{- with .cluster_trust_bundle }}
- {apiGroups: [certificates.k8s.io], resources: [clustertrustbundles], verbs: [list, watch, patch], resourceNames: [{{ .name | quote }}]}
- {apiGroups: [certificates.k8s.io], resources: [clustertrustbundles], verbs: [create]}
{{- with .signer_name }}
- {apiGroups: [certificates.k8s.io], resources: [signers], verbs: [attest], resourceNames: [{{ . | quote }}]}
{{- end }}
{{- end }}
{{- end }}
{{- if hasKey . "signers" }}
{{- $requests := $signers.certificate_requests | default "service-accounts" }}
{{- if ne $requests "off" }}
- {apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests], verbs: [list, watch]}
- {apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests/status], verbs: [update]}
{{- end }}
{{- if eq $requests "service-accounts" }}
- {apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests/approval], verbs: [update]}
- {apiGroups: [certificates.k8s.io], resources: [signers], verbs: [approve], resourceNames: [{{ $signers.signer_name | quote }}]}
{{- end }}
{{- if $answersPods }}
- {apiGroups: [certificates.k8s.io], resources: [podcertificaterequests], verbs: [list, watch]}
- {apiGroups: [certificates.k8s.io], resources: [podcertificaterequests/status], verbs: [update]}
{{- end }}
{{- if or $answersPods (ne $requests "off") }}
- {apiGroups: [certificates.k8s.io], resources: [signers], verbs: [sign], resourceNames: [{{ $signers.signer_name | quote }}]}
{{- end }}
{{- end }}
{{- if hasKey . "gateways" }}
- {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
{{- if (include "citadel.gatewayNamespaces" . | fromYaml).all }}
{{ include "citadel.secretRules" . }}
{{- end }}
{{- end }}
{{- end }}

{{/* For gateways: of all of the cluster, or of a namespace. */}}
{{- define "citadel.secretRules" -}}
- {apiGroups: [""], resources: [secrets], verbs: [list, watch]}
- {apiGroups: [""], resources: [events], verbs: [create, patch]}
{{- end }}

{{/* Whose secrets gateways get: `all`, where a pattern stands for any number of namespaces, or else those `listed`. */}}
{{- define "citadel.gatewayNamespaces" -}}
{{- $listed := list }}{{ $all := false }}
{{- if hasKey . "gateways" }}
{{- $namespaces := (.gateways | default dict).namespaces | default dict }}
{{- $include := $namespaces.include | default (list "*") }}
{{- $exclude := list "kube-system" }}{{ if hasKey $namespaces "exclude" }}{{ $exclude = $namespaces.exclude }}{{ end }}
{{- $all = contains "*" (join "," $include) }}
{{- range $name := $include }}
{{- $excluded := false }}
{{- range $exclude }}
{{- if regexMatch (printf "^%s$" (replace "*" ".*" .)) $name }}{{ $excluded = true }}{{ end }}
{{- end }}
{{- if not (or $all $excluded) }}{{ $listed = append $listed $name }}{{ end }}
{{- end }}
{{- end }}
{{- dict "all" $all "listed" ($listed | uniq) | toJson }}
{{- end }}
