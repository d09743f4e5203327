r"""The shapes of strings, each with the words that tell a user what is expected.

Only syntax that pydantic and Kubernetes (both of the RE2 family) read alike: no look-around, and no
bare `\s`, which is ASCII for one and Unicode for the other.
"""

from types import MappingProxyType
from typing import Final

CLUSTER_NAME: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAMESPACE: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
RESOURCE_NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
KEY_NAME: Final = r"^[-A-Za-z0-9_.]+$"
NO_SPACES: Final = r"^[^\s\v\x{85}\p{Z}]+$"
FOLDER: Final = r"^/[^\s\v\x{85}\p{Z}:]+$"
SERVED_NAME: Final = r"^[A-Za-z0-9]([-A-Za-z0-9._/:]*[A-Za-z0-9])?$"
HOST_NAME: Final = r"^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$"
REASON: Final = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"

MEANINGS: Final = MappingProxyType(
    {
        CLUSTER_NAME: "lower-case letters, digits and dashes, a letter first, no dash last",
        NAMESPACE: "lower-case letters, digits and dashes, no dash at either end",
        OBJECT_NAME: "lower-case letters, digits, dashes and dots, neither at either end",
        RESOURCE_NAME: "DOMAIN/NAME, such as rdma/hca",
        KEY_NAME: "letters, digits, dashes, dots and underscores",
        NO_SPACES: "at least one character, no spaces",
        FOLDER: "a path that begins with a slash, no spaces and no colons",
        SERVED_NAME: "letters, digits and . _ - / : with a letter or digit at both ends",
        HOST_NAME: "a host name alone: no scheme, port, path or wildcard",
        REASON: "one CamelCase word",
    }
)
"""What a user reads when a string does not have the shape."""
