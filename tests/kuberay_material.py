"""What KubeRay 1.6 accepts, as a JSON schema: its own fields, from its published API reference ("KubeRay CRD API reference").

The definition of its resources comes with no package of Python's, so it is not here; pods are checked with Kubernetes' own schema. A field
that is not known is refused, which the API server would drop without a word.
"""

from __future__ import annotations

from typing import Any

TEXT, WHOLE, YES_OR_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANY: dict[str, Any] = {"type": "object"}


def record(required: tuple[str, ...] = (), **fields: dict[str, Any]) -> dict[str, Any]:
    """An object with these fields and no other."""
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def one_of(*words: str) -> dict[str, Any]:
    return {"enum": list(words)}


POD = record(("spec",), metadata=ANY, spec=ANY)
GROUP = {"template": POD, "resources": TEXTS, "labels": TEXTS, "rayStartParams": TEXTS}
HEAD = record(("template",), **GROUP, headService=ANY, enableIngress=YES_OR_NO, serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"))
WORKERS = record(
    ("groupName", "template"),
    **GROUP,
    groupName={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    numOfHosts=WHOLE,
    idleTimeoutSeconds=WHOLE,
    suspend=YES_OR_NO,
    scaleStrategy=record(workersToDelete={"type": "array", "items": TEXT}),
)
AUTOSCALER = record(
    resources=ANY,
    image=TEXT,
    imagePullPolicy=TEXT,
    securityContext=ANY,
    idleTimeoutSeconds=WHOLE,
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    version=one_of("v1", "v2"),
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
)
CLUSTER = record(
    ("headGroupSpec", "rayVersion"),  # the latter: with authOptions
    rayVersion={"type": "string", "pattern": r"^2\.(5[2-9]|[6-9]\d)\.\d+$"},  # authOptions: 2.52 or newer
    authOptions=record(mode=one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=YES_OR_NO),
    enableInTreeAutoscaling=YES_OR_NO,
    autoscalerOptions=AUTOSCALER,
    gcsFaultToleranceOptions=ANY,
    headServiceAnnotations=TEXTS,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
    upgradeStrategy=record(type=one_of("Recreate", "None")),
    managedBy=TEXT,
    suspend=YES_OR_NO,
)
JOB = record(
    ("entrypoint",),
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    rayClusterSpec=CLUSTER,
    clusterSelector=TEXTS,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterConfig=record(backoffLimit=WHOLE),
    submitterPodTemplate=POD,
    metadata=TEXTS,
    jobId=TEXT,
    backoffLimit=WHOLE,
    activeDeadlineSeconds=WHOLE,
    preRunningDeadlineSeconds=WHOLE,
    ttlSecondsAfterFinished=WHOLE,
    shutdownAfterJobFinishes=YES_OR_NO,
    suspend=YES_OR_NO,
    managedBy=TEXT,
    deletionStrategy=ANY,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
)


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A whole resource of KubeRay's."""
    return record(
        ("apiVersion", "kind", "metadata", "spec"), apiVersion={"const": "ray.io/v1"}, kind={"const": kind}, metadata=ANY, spec=spec
    )


SCHEMAS = {"RayCluster": resource("RayCluster", CLUSTER), "RayJob": resource("RayJob", JOB)}
