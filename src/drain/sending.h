#pragma once

/* Sends what a drain has read, in order, as far as it may go out now. */

struct drain;

void sending_go_on(struct drain *);
