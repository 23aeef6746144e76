/* frame_scan: frames that arrive in pieces are those that arrive in one go, what was scanned can be
 * written again, and no frame is complete before its last byte.
 *
 * Input: a frame_max (2 bytes), the size of the pieces (1 byte), then what a peer sends. */

#include "../support/bytes.h"
#include "amqp/frame.h"
#include "fuzz.h"

enum { FRAMES_MAX = 256, INPUT_MAX = 8192 };

struct scan {
    size_t at[FRAMES_MAX]; /* where each frame begins */
    size_t count, end;     /* `end`: where the scan stopped, and why */
    enum frame_result result;
};

/* Scans what is there behind scan->end. */
static void scan_on(struct scan *scan, uint8_t *data, size_t len, uint32_t frame_max)
{
    struct frame frame;
    size_t need = 0;
    while (scan->count < FRAMES_MAX) {
        size_t left = len - scan->end;
        scan->result = frame_scan(data + scan->end, left, frame_max, &frame, &need);
        if (scan->result != FRAME_COMPLETE) {
            ENSURE(scan->result != FRAME_PARTIAL || need > left);
            return;
        }
        ENSURE(frame.payload == data + scan->end + FRAME_HEAD_BYTES);
        scan->at[scan->count++] = scan->end;
        scan->end += frame.payload_len + FRAME_OVERHEAD_BYTES;
        ENSURE(scan->end <= len);
    }
}

static void check_pieces(const struct scan *whole, const uint8_t *data, size_t len,
                         uint32_t frame_max, size_t piece)
{
    struct scan scan = {.result = FRAME_PARTIAL};
    for (size_t here = 0; here < len && scan.result == FRAME_PARTIAL && scan.count < FRAMES_MAX;) {
        here += piece < len - here ? piece : len - here;
        uint8_t *arrived = exact_copy(data, here);
        scan_on(&scan, arrived, here, frame_max);
        free(arrived);
    }
    ENSURE(scan.count == whole->count && scan.end == whole->end);
    ENSURE(memcmp(scan.at, whole->at, scan.count * sizeof *scan.at) == 0);
    ENSURE(scan.result == whole->result);
}

/* Every frame, cut short anywhere in its head and before its last byte, is partial; whole and
 * written again, it has the same bytes. */
static void check_frame(const uint8_t *at, uint32_t frame_max)
{
    struct frame frame;
    size_t need = 0, size = FRAME_OVERHEAD_BYTES + (size_t)wire_get32(at + 3);
    for (size_t len = 0; len < size; len += len < FRAME_OVERHEAD_BYTES ? 1 : size - len) {
        uint8_t *copy = exact_copy(at, len);
        ENSURE(frame_scan(copy, len, frame_max, &frame, &need) == FRAME_PARTIAL);
        ENSURE(need == (len < FRAME_HEAD_BYTES ? FRAME_HEAD_BYTES : size));
        free(copy);
    }
    uint8_t *copy = exact_copy(at, size), *again = exact_copy(at, size);
    ENSURE(frame_scan(copy, size, frame_max, &frame, &need) == FRAME_COMPLETE);
    ENSURE(frame_fits(frame.payload_len, frame_max));
    memset(again, 0, FRAME_HEAD_BYTES);
    again[size - 1] = 0;
    ENSURE(frame_wrap(again, frame.type, frame.channel, frame.payload_len) == size);
    ENSURE(memcmp(again, copy, size) == 0);
    free(copy);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size < INPUT_MAX ? size : INPUT_MAX};
    uint32_t frame_max = (uint32_t)input_number(&in, 2);
    size_t piece = (size_t)input_octet(&in) + 1;
    struct scan whole = {.result = FRAME_PARTIAL};
    uint8_t *bytes = exact_copy(in.at, in.left);
    scan_on(&whole, bytes, in.left, frame_max);
    free(bytes);
    check_pieces(&whole, in.at, in.left, frame_max, piece);
    for (size_t i = 0; i < whole.count && i < 32; i++)
        check_frame(in.at + whole.at[i], frame_max);
    return 0;
}
