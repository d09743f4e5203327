"""What every model of the API is: frozen, strict, closed, camelCase outside, snake_case inside."""

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

Location = tuple[str | int, ...]
"""A path inside a model: field names as users write them, and list positions."""

CONTRADICTION = "epd_contradiction"
"""Error type of our own cross-field refusals; their message is already a sentence for users."""


class ApiModel(BaseModel):
    """Base of the models. An unknown field is an error, and so is a number in quotes."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
    )

    def refuse(self, problems: list[tuple[Location, str]]) -> None:
        """Raise one error with all contradictions, each at its place below this model, if any."""
        if problems:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError(CONTRADICTION, "{reason}", {"reason": reason}),
                        loc=location,
                        input=None,
                    )
                    for location, reason in problems
                ],
            )
