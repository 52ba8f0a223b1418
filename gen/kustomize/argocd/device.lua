-- How a Device does: whether its heartbeats arrive, and from one agent alone.
local health = {status = "Progressing", message = "No heartbeat has arrived yet"}
if obj.status == nil or obj.status.conditions == nil then
  return health
end
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "IdentityConflict" and condition.status == "True" then
    return {status = "Degraded", message = condition.message}
  end
  if condition.type == "Reachable" and condition.reason ~= "NeverSeen" then
    health.message = condition.message
    health.status = condition.status == "True" and "Healthy" or "Degraded"
  end
end
return health
