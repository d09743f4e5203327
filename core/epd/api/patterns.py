r"""The shapes of strings, each with the words that tell a user what is expected.

Only syntax that pydantic, Kubernetes (RE2) and editors (JSON Schema) read alike: no look-around,
and no bare `\s`, which is ASCII for one and Unicode for the other.
"""

from types import MappingProxyType
from typing import Final

SPACES: Final = r"\s\v" "\u001c-\u001f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What goes between the brackets of a class to mean all that Unicode calls a space."""

CLUSTER_NAME: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAMESPACE: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
RESOURCE_NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
KEY_NAME: Final = r"^[-A-Za-z0-9_.]+$"
NO_SPACES: Final = rf"^[^{SPACES}]+$"
FOLDER: Final = rf"^/[^{SPACES}:]+$"
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
