#pragma once

/* Descriptors 0 to 2. */

/* Takes the place of those that the process was started without: else the next file that is opened
 * gets the number, and the log or the output is written into it. What is written there fails as it
 * would have. To be called before anything is opened. */
void standard_descriptors_hold(void);
