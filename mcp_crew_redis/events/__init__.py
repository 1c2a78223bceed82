"""Events: one stream per tenant, type and priority; nothing lost that is not counted.

kinds, event, schemas   what an event is
publishing, ...         how it gets into its stream
consumer/               who handles it
janitor/                who cleans up
"""
