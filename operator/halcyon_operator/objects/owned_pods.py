"""Applies the owner's settings (`model.settings`) to the pods of runs. Pure."""

from copy import deepcopy

from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_operator.model.decision import JobSetPlan, Manifest
from halcyon_operator.model.settings import USER_ID, CaBundle, Cache, PodSecurity, Proxy, TrainerPods

CACHE_DIRECTORY = "/var/cache/halcyon"
"""Where the trainer keeps compiled programs."""
CA_DIRECTORY = "/etc/halcyon/ca"
_CA_VARIABLES = ("SSL_CERT_FILE", "TENSORSTORE_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name the file of certificates for OpenSSL and the Rust clients, TensorStore, AWS clients, `requests`,
and curl.
"""
_NEVER_BY_PROXY = ("localhost", "127.0.0.1", "::1", ".svc", "169.254.169.254", "metadata.google.internal")
"""Addresses inside the cluster and on the node, never reached by the proxy: the other processes, and the identity of
the pod.
"""


def pod_security(profile: PodSecurity) -> Manifest:
    """Security context of a pod."""
    user = profile.run_as_user
    context: Manifest = {"runAsNonRoot": user != 0, "seccompProfile": {"type": "RuntimeDefault"}}
    # A cluster that gives each namespace a range of ids rejects every other id, and sets user and group of volumes
    # itself.
    return (
        context if user == "namespace" else {"runAsNonRoot": user != 0, "runAsUser": user, "runAsGroup": user} | context
    )


def container_security(profile: PodSecurity) -> Manifest:
    """Security context of the trainer's container."""
    context: Manifest = {
        "allowPrivilegeEscalation": profile.privileged or "SYS_ADMIN" in profile.capabilities,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": profile.run_as_user != 0,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if profile.capabilities:
        context["capabilities"] = {"drop": ["ALL"], "add": list(profile.capabilities)}
    if profile.privileged:
        # A privileged container has all capabilities; dropping them would defeat the purpose of the privilege.
        del context["capabilities"], context["seccompProfile"]
        context["privileged"] = True
    return context


def volume_security(profile: PodSecurity) -> Manifest:
    """The group of a pod's volumes, as part of its security context."""
    return (
        {}
        if profile.run_as_user == "namespace"
        else {"fsGroup": profile.run_as_user, "fsGroupChangePolicy": "OnRootMismatch"}
    )


def with_settings(template: Manifest, plan: JobSetPlan) -> Manifest:
    """A trainer's pod template, which has the restricted profile, with the owner's settings."""
    settings, accelerator = plan.settings, plan.spec.accelerator
    template = deepcopy(template)
    metadata, pod = template["metadata"], template["spec"]
    (trainer,) = pod["containers"]
    pods, profile = settings.trainer_pods, settings.trainer_pods.security_of(accelerator)
    pod["securityContext"] = pod_security(profile) | volume_security(profile)
    trainer["securityContext"] = container_security(profile)
    if profile.privileged:
        for sidecar in pod.get("initContainers", []):
            sidecar["securityContext"] = {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "privileged": True}
    if profile.host_network == "always" or (profile.host_network == "multislice" and accelerator.slices > 1):
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if pods.annotations:
        # Annotations that the hardware needs override those of the owner.
        metadata["annotations"] = pods.annotations | metadata.get("annotations", {})
    if pods.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in pods.image_pull_secrets]
    if settings.ca_bundle.config_map:
        _trust(pod, trainer, settings.ca_bundle)
    trainer["env"] += proxy_variables(settings.proxy, settings.cluster_domain)
    _keep_cache(pod, trainer, pods.cache, plan.run.namespace)
    return template


def probe_security(pods: TrainerPods, accelerator: AcceleratorSpec) -> tuple[Manifest, Manifest]:
    """Security contexts of a probe pod and its container: the user of the trainer, without its privileges."""
    user = pods.security_of(accelerator).run_as_user
    profile = PodSecurity(run_as_user=USER_ID if user == 0 else user)
    return pod_security(profile), container_security(profile)


def _trust(pod: Manifest, trainer: Manifest, bundle: CaBundle) -> None:
    item = {"key": bundle.key, "path": "ca.crt"}
    pod["volumes"].append({"name": "ca", "configMap": {"name": bundle.config_map, "items": [item]}})
    trainer["volumeMounts"].append({"name": "ca", "mountPath": CA_DIRECTORY, "readOnly": True})
    trainer["env"] += [{"name": name, "value": f"{CA_DIRECTORY}/ca.crt"} for name in _CA_VARIABLES]


def proxy_variables(proxy: Proxy, cluster_domain: str) -> list[dict[str, str]]:
    """Variables of the proxy, in upper and lower case: curl and gRPC read some of them in lower case only."""
    if not (proxy.https or proxy.http):
        return []
    values = {"HTTPS_PROXY": proxy.https, "HTTP_PROXY": proxy.http}
    values["NO_PROXY"] = ",".join(dict.fromkeys((*_NEVER_BY_PROXY, f".{cluster_domain}", *proxy.exclude)))
    return [
        {"name": name, "value": value} for known, value in values.items() if value for name in (known, known.lower())
    ]


def _keep_cache(pod: Manifest, trainer: Manifest, cache: Cache, namespace: str) -> None:
    if not (cache.claim or cache.host_path):
        return
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "cache")
    (mount,) = (mount for mount in trainer["volumeMounts"] if mount["mountPath"] == CACHE_DIRECTORY)
    volume.clear()
    if cache.claim:
        volume |= {"name": "cache", "persistentVolumeClaim": {"claimName": cache.claim}}
        return
    volume |= {"name": "cache", "hostPath": {"path": cache.host_path, "type": "Directory"}}
    # A cached program is code: one namespace must not provide code to another.
    mount["subPath"] = namespace
