"""The gateway: speaks OpenAI's API and places every stage of a request on a pod."""
