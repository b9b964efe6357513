{{/* Name of the chart, for the label app.kubernetes.io/name. */}}
{{- define "halcyon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
Name of all objects: the release's name, with the chart's name added if it is not part of it. The name of a Service may have 63 characters,
so that 55 are left before "-metrics".
*/}}
{{- define "halcyon.fullname" -}}
{{- $name := include "halcyon.name" . }}
{{- $made := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $made .Values.fullnameOverride | trunc 55 | trimSuffix "-" }}
{{- end }}

{{/* Labels that select the operator's pods; they must never change in an upgrade. */}}
{{- define "halcyon.selectorLabels" -}}
app.kubernetes.io/name: {{ include "halcyon.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of all objects. */}}
{{- define "halcyon.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "halcyon.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: halcyon
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "halcyon.serviceAccountName" -}}
{{- default (ternary (include "halcyon.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* Name of this release's cluster-scoped objects, with the namespace, because another namespace may have a release of the same name. */}}
{{- define "halcyon.clusterName" -}}
{{- printf "%s-%s" (include "halcyon.fullname" .) .Release.Namespace | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* PriorityClass of the probe pods, which test for room for more slices. */}}
{{- define "halcyon.probePriorityClassName" -}}
{{- default (printf "%s-probe" (include "halcyon.clusterName" .)) .Values.probes.priorityClass.name }}
{{- end }}

{{/* Security settings of the pods of this release: the restricted profile. Without a user id, the cluster chooses it. */}}
{{- define "halcyon.podSecurityContext" -}}
runAsNonRoot: true
{{- if ne (toString .Values.runAsUser) "namespace" }}
runAsUser: {{ int .Values.runAsUser }}
runAsGroup: {{ int .Values.runAsUser }}
fsGroup: {{ int .Values.runAsUser }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Full name of an image; give a dict of image, appVersion, value (its name in values.yaml) and dockerfile. */}}
{{- define "halcyon.image" -}}
{{- $missing := printf "Set %s.repository to where the image built from %s is pushed." .value .dockerfile }}
{{- $repository := required $missing .image.repository }}
{{- if .image.digest }}
{{- printf "%s@%s" $repository .image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .appVersion .image.tag) }}
{{- end }}
{{- end }}

{{/* JSON list of the namespaces that the operator serves; empty: all. */}}
{{- define "halcyon.namespaces" -}}
{{- if and .Values.clusterWide .Values.watchNamespaces }}
{{- fail "clusterWide and watchNamespaces exclude one another: leave one of them out." }}
{{- end }}
{{- ternary list (default (list .Release.Namespace) .Values.watchNamespaces) .Values.clusterWide | toJson }}
{{- end }}

{{/* The operator's settings as JSON: the values that its process reads, and what the release decides. `halcyon_operator.model.settings` has
the same names. */}}
{{- define "halcyon.settings" -}}
{{- $trainer := dict "image" .Values.trainerImage "appVersion" .Chart.AppVersion "value" "trainerImage" "dockerfile" "images/trainer/Dockerfile" }}
{{- $probes := .Values.probes.priorityClass }}
{{- $priority := ternary (include "halcyon.probePriorityClassName" .) "" (or $probes.create (ne $probes.name "")) }}
{{- pick .Values "caBundle" "clusterDomain" "gpuDirect" "kueue" "log" "planning" "podMemory" "proxy" "stuckPods" "trainerPods" "watchNodes" "workers" |
  merge (dict
    "trainerImage" (include "halcyon.image" $trainer)
    "namespaces" (include "halcyon.namespaces" . | fromJsonArray)
    "defaultsNamespace" .Release.Namespace
    "lease" (dict "namespace" .Release.Namespace "name" (include "halcyon.fullname" .))
    "metrics" (pick .Values.metrics "port")
    "objectStore" (dict "s3" (pick .Values.objectStore.s3 "endpoints"))
    "probes" (dict "priorityClass" (dict "name" $priority))
  ) | toJson }}
{{- end }}

{{/* The operator's rights, the same for one namespace and for the whole cluster. */}}
{{- define "halcyon.rules" -}}
# delete: a run that has succeeded is deleted after its spec.ttlSecondsAfterFinished.
- apiGroups: [halcyon.dev]
  resources: [trainingruns]
  verbs: [get, list, watch, delete]
- apiGroups: [halcyon.dev]
  resources: [trainingruns/status]
  verbs: [patch]
- apiGroups: [halcyon.dev]
  resources: [trainingrundefaults]
  verbs: [get]
# Needed for owner references that block the owner's deletion, if the API server enforces it (OwnerReferencesPermissionEnforcement).
- apiGroups: [halcyon.dev]
  resources: [trainingruns/finalizers]
  verbs: [update]
- apiGroups: [jobset.x-k8s.io]
  resources: [jobsets]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, delete]
- apiGroups: [""]
  resources: [pods]
  # delete: only pods of a run, whose containers have ended, that a user allows to delete, or whose node the run avoids.
  verbs: [list, watch, delete]
# get: the uid of a Job without pods, whose events say why. delete: a Job of a run whose pod has ended and is replaced alone, because a JobSet
# makes a missing Job at once. Without this right it takes ten seconds longer.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# To report why a scheduled pod does not start: a volume or its network is missing.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end }}

{{/* The right to report what a run waits for in its queue, and to change its priority there. */}}
{{- define "halcyon.kueueRules" -}}
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list{{ if .Values.kueue.multiKueue }}, create, delete, patch{{ else if .Values.kueue.priorityBoost }}, patch{{ end }}]
{{- end }}
