{{/* Rejects values that contradict one another, each with one sentence. */}}
{{- define "halcyon.contradictions" -}}
{{- $served := include "halcyon.namespaces" . | fromJsonArray }}
{{- with .Values.limits }}
  {{- if and (not .enabled) (or .default .namespaces) }}
    {{- fail "limits.enabled is false while limits are set, so nothing would enforce them: set it to true, or leave the limits out." }}
  {{- end }}
  {{- if hasKey (.default | default dict) "runs" }}
    {{- fail "limits.default.runs: a ResourceQuota is for one namespace: give runs in limits.namespaces, for each namespace by name." }}
  {{- end }}
  {{- range $namespace := keys .namespaces | sortAlpha }}
    {{- if and $served (not (has $namespace $served)) }}
      {{- fail (printf "limits.namespaces: this release does not serve %s, only %s: correct the name, or add it to watchNamespaces." $namespace (join ", " $served)) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- range $name, $security := .Values.trainerPods.security }}
  {{- if and $security.capabilities (or (not (hasKey $security "runAsUser")) (ne (toString $security.runAsUser) "0")) }}
    {{- fail (printf "trainerPods.security.%s.capabilities: Kubernetes gives added capabilities to root alone: set runAsUser to 0 beside them, or leave them out." $name) }}
  {{- end }}
{{- end }}
{{- if and .Values.trainerPods.cache.claim .Values.trainerPods.cache.hostPath }}
  {{- fail "trainerPods.cache.claim and trainerPods.cache.hostPath exclude one another: leave one of them out." }}
{{- end }}
{{- if and (not .Values.serviceAccount.create) .Values.serviceAccount.annotations }}
  {{- fail "serviceAccount.annotations are for an account that this release makes: annotate the existing account yourself, or set serviceAccount.create." }}
{{- end }}
{{- end }}
