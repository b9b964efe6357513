{{/* The limits of a set as variables and validations of a policy; empty if the set has no limit for this resource. Strings of the values
are written as JSON, which CEL reads as literals. Argument: a dict of limits and resource. */}}
{{- define "halcyon.limitsText" -}}
{{- $limits := .limits }}
{{- $ofRun := eq .resource "trainingruns" }}
{{- $keys := list "serviceAccounts" "images" "imageDigests" "roots" "endpoints" "priorityClasses" }}
{{- if $ofRun }}
  {{- $keys = concat $keys (list "sources" "types" "slices" "gpuDirect") }}
{{- end }}
{{- $limited := false }}
{{- range $keys }}
  {{- $limited = or $limited (hasKey $limits .) }}
{{- end }}
{{- $unnamed := ternary "default" "" $ofRun }}
{{- $root := ternary "root" "rootPrefix" $ofRun }}
{{- /* Fields with the address of a store, and the alternative to a value. The last is only read, but with the run's identity. */}}
{{- $addresses := list (dict "field" (printf "checkpoint.%s" $root) "lead" "") }}
{{- $addresses = append $addresses (dict "field" "data.cache.root" "lead" "leave it out for one below spec.checkpoint.root") }}
{{- if $ofRun }}
  {{- $addresses = append $addresses (dict "field" "from.root" "lead" "leave it out for that of the run that spec.from names") }}
{{- end }}
{{- if $limited }}
variables:
  - name: account
    expression: "object.spec.?scheduling.?serviceAccountName.orValue('{{ $unnamed }}')"
  - name: image
    expression: "object.spec.?image.orValue('')"
  - name: endpoint
    expression: >-
      {{- include "halcyon.limitsEndpoint" (dict "object" "object" "root" $root) | nindent 6 }}
  {{- if hasKey $limits "sources" }}
  {{- if $ofRun }}
  - name: reads
    expression: >-
      {{- include "halcyon.limitsReads" "object" | nindent 6 }}
  # Paths without a scheme are not limited: they are files of the pod, in its image or in volumes that the run names.
  - name: foreign
    expression: >-
      variables.reads.map(read, {
        'field': read.field,
        'addresses': dyn(read.addresses.filter(address, address.contains('://') && !address.startsWith('file://') &&
          ((address + '/').contains('/../') || !{{ toJson $limits.sources }}.exists(prefix, (address + '/').startsWith(prefix)))))
      }).filter(read, read.addresses.size() > 0)
  {{- end }}
  {{- end }}
validations:
  {{- with $limits }}
  {{- if hasKey . "serviceAccounts" }}
  - expression: >-
      variables.account in {{ toJson .serviceAccounts }} ||{{ if not $ofRun }} variables.account == '' ||{{ end }}
      (request.operation == 'UPDATE' && oldObject.spec.?scheduling.?serviceAccountName.orValue('{{ $unnamed }}') == variables.account)
    reason: Forbidden
    message: spec.scheduling.serviceAccountName is not allowed in this namespace
    messageExpression: >-
      'spec.scheduling.serviceAccountName: ' + variables.account + ' is not allowed in namespace ' + request.namespace +
      {{ include "halcyon.limitsMend" (dict "take" "take" "entries" .serviceAccounts) }}
  {{- end }}
  {{- if hasKey . "images" }}
  - expression: >-
      variables.image == '' ||
      (!variables.image.contains('..') && {{ toJson .images }}.exists(prefix, variables.image.startsWith(prefix))) ||
      (request.operation == 'UPDATE' && oldObject.spec.?image.orValue('') == variables.image)
    reason: Forbidden
    message: spec.image is not allowed in this namespace
    messageExpression: >-
      'spec.image: ' + variables.image + ' is not allowed in namespace ' + request.namespace +
      {{ $lead := "leave it out for the trainer that belongs to the operator" -}}
      {{ include "halcyon.limitsMend" (dict "lead" $lead "take" "take an image that begins with" "entries" .images) }}
  {{- end }}
  {{- if eq (.imageDigests | default "") "required" }}
  - expression: >-
      variables.image == '' || variables.image.contains('@sha256:') ||
      (request.operation == 'UPDATE' && oldObject.spec.?image.orValue('') == variables.image)
    reason: Forbidden
    message: spec.image must be given by its digest in this namespace
    messageExpression: >-
      'spec.image: ' + variables.image + ' must be given by its digest in namespace ' + request.namespace + ', as NAME@sha256:DIGEST'
  {{- end }}
  {{- if hasKey . "roots" }}
  {{- $roots := .roots }}
  {{- range $addresses }}
  {{- $path := printf "spec.?%s.orValue('')" (replace "." ".?" .field) }}
  - expression: >-
      object.{{ $path }} == '' || (!(object.{{ $path }} + '/').contains('/../') &&
      {{ toJson $roots }}.exists(prefix, (object.{{ $path }} + '/').startsWith(prefix))) ||
      (request.operation == 'UPDATE' && oldObject.{{ $path }} == object.{{ $path }})
    reason: Forbidden
    message: spec.{{ .field }} is not allowed in this namespace
    messageExpression: >-
      'spec.{{ .field }}: ' + object.{{ $path }} + ' is not allowed in namespace ' + request.namespace +
      {{ include "halcyon.limitsMend" (dict "lead" .lead "take" "take an address below" "entries" $roots) }}
  {{- end }}
  {{- end }}
  {{- if hasKey . "endpoints" }}
  # A bucket's name alone does not identify its store.
  - expression: >-
      variables.endpoint == '' || variables.endpoint in {{ toJson .endpoints }} ||
      (request.operation == 'UPDATE' && variables.endpoint ==
        ({{ include "halcyon.limitsEndpoint" (dict "object" "oldObject" "root" $root) | nindent 8 | trim }}))
    reason: Forbidden
    message: spec.checkpoint.endpoint is not allowed in this namespace
    {{- $entries := list }}
    {{- range .endpoints }}
      {{- $entries = append $entries (ternary "none, which is AWS" . (eq . "aws")) }}
    {{- end }}
    messageExpression: >-
      'spec.checkpoint.endpoint: ' + (variables.endpoint == 'aws' ? 'none, which is AWS,' : variables.endpoint) +
      ' is not allowed in namespace ' + request.namespace +
      {{ include "halcyon.limitsMend" (dict "take" "take" "entries" $entries "none" "no s3:// address is") }}
  {{- end }}
  {{- if hasKey . "priorityClasses" }}
  {{- $classes := .priorityClasses }}
  {{- range list "scheduling.priorityClassName" "scheduling.queue.priorityClass" }}
  {{- $path := printf "spec.?%s.orValue('')" (replace "." ".?" .) }}
  - expression: >-
      object.{{ $path }} == '' || object.{{ $path }} in {{ toJson $classes }} ||
      (request.operation == 'UPDATE' && oldObject.{{ $path }} == object.{{ $path }})
    reason: Forbidden
    message: spec.{{ . }} is not allowed in this namespace
    messageExpression: >-
      'spec.{{ . }}: ' + object.{{ $path }} + ' is not allowed in namespace ' + request.namespace +
      {{ include "halcyon.limitsMend" (dict "lead" "leave it out" "take" "take" "entries" $classes) }}
  {{- end }}
  {{- end }}
  {{- if and $ofRun (hasKey . "types") }}
  - expression: >-
      object.spec.accelerator.type in {{ toJson .types }} ||
      (request.operation == 'UPDATE' && oldObject.spec.accelerator.type == object.spec.accelerator.type)
    reason: Forbidden
    message: spec.accelerator.type is not allowed in this namespace
    messageExpression: >-
      'spec.accelerator.type: ' + object.spec.accelerator.type + ' is not allowed in namespace ' + request.namespace +
      {{ include "halcyon.limitsMend" (dict "take" "take" "entries" .types) }}
  {{- end }}
  {{- if and $ofRun (hasKey . "slices") }}
  {{- range list "accelerator.slices" "recovery.elastic.maxSlices" }}
  {{- $path := printf "spec.?%s.orValue(1)" (replace "." ".?" .) }}
  - expression: >-
      object.{{ $path }} <= {{ $limits.slices | int }} ||
      (request.operation == 'UPDATE' && oldObject.{{ $path }} >= object.{{ $path }})
    reason: Forbidden
    message: spec.{{ . }} is above what this namespace may have
    messageExpression: >-
      'spec.{{ . }}: ' + string(object.{{ $path }}) + ' is above the {{ $limits.slices | int }} that a run in namespace ' +
      request.namespace + ' may have; take fewer'
  {{- end }}
  {{- end }}
  {{- if and $ofRun (hasKey . "gpuDirect") (not .gpuDirect) }}
  - expression: >-
      object.spec.accelerator.?network.orValue('standard') != 'gpuDirect' ||
      (request.operation == 'UPDATE' && oldObject.spec.accelerator.?network.orValue('standard') == 'gpuDirect')
    reason: Forbidden
    message: spec.accelerator.network gpuDirect is not allowed in this namespace
    messageExpression: >-
      'spec.accelerator.network: gpuDirect is not allowed in namespace ' + request.namespace + '; leave it out'
  {{- end }}
  {{- if and $ofRun (hasKey . "sources") }}
  # The pods of the run read these addresses with their identity.
  - expression: >-
      variables.foreign.size() == 0 ||
      (request.operation == 'UPDATE' && variables.reads == {{ include "halcyon.limitsReads" "oldObject" | nindent 8 | trim }})
    reason: Forbidden
    message: an address in spec.data.sources or spec.tokenizer is not allowed in this namespace
    messageExpression: >-
      variables.foreign[0].field + ': ' + variables.foreign[0].addresses[0] + ' is not allowed in namespace ' + request.namespace +
      {{ include "halcyon.limitsMend" (dict "lead" "take a file of the image or of a volume" "take" "an address below" "entries" .sources) }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The end of a message with the allowed values, as a literal of CEL. Argument: a dict of take and entries, and of lead if the field can
be left out. */}}
{{- define "halcyon.limitsMend" -}}
{{- $taken := printf "%s %s" .take (join " or " .entries) }}
{{- if and .lead .entries }}
{{- printf "; %s, or %s" .lead $taken | toJson }}
{{- else if .entries }}
{{- printf "; %s" $taken | toJson }}
{{- else }}
{{- printf "; %s" (.lead | default .none | default "none is") | toJson }}
{{- end }}
{{- end }}

{{/* Endpoint of the store that a document writes to: `aws` if it has an s3:// address and no endpoint. Empty if it has neither: then the
address comes from defaults, which have been checked themselves. Argument: a dict of object and root, its field of the root. */}}
{{- define "halcyon.limitsEndpoint" -}}
{{ .object }}.spec.?checkpoint.?endpoint.orValue(
  [{{ .object }}.spec.?checkpoint.?{{ .root }}.orValue(''), {{ .object }}.spec.?data.?cache.?root.orValue('')]
    .exists(address, address.startsWith('s3://')) ? 'aws' : '')
{{- end }}

{{/* The addresses of a run's data and tokenizer, by field. Argument: the name of the object. */}}
{{- define "halcyon.limitsReads" -}}
({{ . }}.spec.?data.?sources.orValue([]).map(source, {
  'field': dyn('spec.data.sources[' + source.name + ']'),
  'addresses': dyn(source.?text.?paths.orValue([]) + source.?jsonl.?paths.orValue([]) + source.?csv.?paths.orValue([]) +
    source.?tsv.?paths.orValue([]) + source.?parquet.?paths.orValue([]) +
    source.?huggingFace.?dataset.optMap(name, ['hf://datasets/' + name]).orValue([]))
}) + ['tokenizerJson', 'tiktoken', 'sentencePiece'].map(kind, {
  'field': dyn('spec.tokenizer.' + kind + '.path'),
  'addresses': dyn([
    kind == 'tokenizerJson' ? {{ . }}.spec.?tokenizer.?tokenizerJson.?path.orValue('') :
    kind == 'tiktoken' ? {{ . }}.spec.?tokenizer.?tiktoken.?path.orValue('') :
    {{ . }}.spec.?tokenizer.?sentencePiece.?path.orValue('')
  ])
}))
{{- end }}
