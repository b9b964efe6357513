{{/* Name of the chart, as the label app.kubernetes.io/name has it. */}}
{{- define "halcyon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of all objects: the release's, with the chart's in it. */}}
{{- define "halcyon.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "halcyon.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels by which the operator's pod is found; they never change in an upgrade. */}}
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

{{/* Name of what belongs to this release and to no namespace: another namespace may have a release of the same name. */}}
{{- define "halcyon.clusterName" -}}
{{- printf "%s-%s" (include "halcyon.fullname" .) .Release.Namespace | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* PriorityClass of the pods that look for room for more slices. */}}
{{- define "halcyon.probePriorityClassName" -}}
{{- default (printf "%s-probe" (include "halcyon.clusterName" .)) .Values.probes.priorityClass.name }}
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

{{/* What the operator may do. The same in one namespace and in all. */}}
{{- define "halcyon.rules" -}}
# A run that has succeeded is deleted where its spec.ttlSecondsAfterFinished says so.
- apiGroups: [halcyon.dev]
  resources: [trainingruns]
  verbs: [get, list, watch, delete]
- apiGroups: [halcyon.dev]
  resources: [trainingruns/status]
  verbs: [patch]
- apiGroups: [halcyon.dev]
  resources: [trainingrundefaults]
  verbs: [get]
# Owner references that block the owner's deletion need this where the API server enforces it.
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
  # Deleted only if they are a run's own, when another of the same world is being deleted.
  verbs: [list, watch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# What is written about a pod that has a node and does not start: a volume or its network is missing.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end }}

{{/* What it takes to tell what a run waits for in its queue. */}}
{{- define "halcyon.kueueRules" -}}
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
{{- end }}
