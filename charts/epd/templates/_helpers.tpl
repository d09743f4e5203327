{{- /* Names and labels; the operator is one Deployment called RELEASE-operator. */ -}}

{{- define "epd.fullname" -}}
{{- printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "epd.serviceAccountName" -}}
{{- default (include "epd.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "epd.selectorLabels" -}}
app.kubernetes.io/name: epd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "epd.labels" -}}
{{ include "epd.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: epd
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "epd.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* What the operator may do where it works. Gateways follow pods, and nobody may give a right
       that they do not have: hence get, list and watch of pods are among these. */ -}}
{{- define "epd.rules" -}}
- apiGroups: [epd.dev]
  resources: [epdclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [epd.dev]
  resources: [epdclusters/status]
  verbs: [patch]
- apiGroups: [epd.dev]
  resources: [epdclusters/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts, secrets, configmaps]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [get, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, create, patch, delete]
{{- end -}}

{{- define "epd.subject" -}}
- kind: ServiceAccount
  name: {{ include "epd.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}
