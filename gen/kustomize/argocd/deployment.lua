-- How a Deployment of the fleet does, by what the operator says of it.
local health = {status = "Progressing", message = "The operator has yet to look at it"}
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
for _, condition in ipairs(status.conditions) do
  if condition.status == "True" and condition.type == "Stalled" then
    health.status = "Degraded"
    health.message = condition.message
    local failure = status.aggregate and status.aggregate.lastError
    if condition.reason == "DevicesFailed" and failure then
      health.message = failure.device .. ": " .. failure.reason .. ": " .. (failure.message or "")
    end
    return health
  end
  if condition.type == "Ready" then
    health.message = condition.message
    if condition.status == "True" then
      health.status = "Healthy"
    elseif condition.reason == "Paused" then
      health.status = "Suspended"
    end
  end
end
return health
