#pragma once

/* Texts of 320 (connection-forced). Client libraries look for "Lost connection" to see that
 * connecting again will help (Laravel's DetectsLostConnections, for one). */

#define LOST_RABBITMQ    "CONNECTION_FORCED - Lost connection to RabbitMQ"
#define LOST_PROXY       "CONNECTION_FORCED - Lost connection: the proxy is stopping"
#define LOST_PERMISSIONS "CONNECTION_FORCED - Lost connection: the new secret has other permissions"
#define NACKED_AND_LOST  "RESOURCE_ERROR - RabbitMQ nacked a message, and the spool cannot take it"
#define LOST_UNCONFIRMED                                                                           \
    "CONNECTION_FORCED - Lost connection: the last publishes were not confirmed"
