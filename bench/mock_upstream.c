/* A mock of an OpenAI-compatible API for benchmarks: one thread, epoll, loopback only.
 *
 *   mock-upstream PORT [CHUNK_DELAY_US]
 *
 * Whatever is posted is answered with one fixed completion of 60 tokens. A body with "stream":true gets the same text
 * as 60 server-sent events, each written by itself: as fast as the socket takes them, or CHUNK_DELAY_US apart; a model
 * whose name contains "mock20" gets 20 ms between events and before the first.
 *
 * It does as little as a server can, so that what is measured is the gateway in front of it. It understands
 * Content-Length and chunked bodies, keep-alive and pipelining; it is no general HTTP server.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PIECES = 60,
    EVENTS = PIECES + 1, /* the last one is [DONE] with the end of the chunked body */
    MAX_FDS = 8192,
    BATCH = 512,
    REQUEST_BYTES = 256 * 1024,
    SLOW_DELAY_US = 20000,
};

typedef struct {
    char *request; /* what has been read and not answered yet */
    size_t length;
    const char *out; /* what of the answer the socket has not taken yet; answers are constants */
    size_t out_length;
    bool open, streaming;
    int next_event;
    long long due_us, delay_us;
} Connection;

typedef struct {
    char text[1024];
    size_t length;
} Event;

static Connection connections[MAX_FDS];
static int highest_fd, streams, epoll_fd;
static long default_delay_us;

static char completion[4096], stream_head[512];
static size_t completion_length, stream_head_length;
static Event events[EVENTS];

static const char *WORDS[] = {"The", " gateway", " routes", " each", " request",
                              " to", " a",       " model",  " and",  " returns"};
enum { WORD_COUNT = sizeof WORDS / sizeof *WORDS };

#define USAGE "{\"prompt_tokens\":48,\"completion_tokens\":60,\"total_tokens\":108}"

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Answers, built once --------------------------------------------------------------------------------------------- */

static void build_completion(void) {
    char text[1024] = "", body[2048];
    for (int i = 0; i < PIECES; i++) strcat(text, WORDS[i % WORD_COUNT]);
    int length = snprintf(body, sizeof body,
                          "{\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion\",\"created\":1760000000,"
                          "\"model\":\"gpt-mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
                          "\"content\":\"%s\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
                          "\"usage\":" USAGE ",\"system_fingerprint\":\"fp_mock\"}",
                          text);
    completion_length = (size_t)snprintf(completion, sizeof completion,
                                         "HTTP/1.1 200 OK\r\nServer: mock\r\nContent-Type: application/json\r\n"
                                         "Content-Length: %d\r\nConnection: keep-alive\r\n\r\n%s",
                                         length, body);
}

static void build_stream(void) {
    stream_head_length = (size_t)snprintf(stream_head, sizeof stream_head,
                                          "HTTP/1.1 200 OK\r\nServer: mock\r\n"
                                          "Content-Type: text/event-stream; charset=utf-8\r\n"
                                          "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n"
                                          "Connection: keep-alive\r\n\r\n");
    for (int i = 0; i < PIECES; i++) {
        bool first = i == 0, last = i == PIECES - 1;
        char data[900];
        int length = snprintf(data, sizeof data,
                              "data: {\"id\":\"chatcmpl-mock0001\",\"object\":\"chat.completion.chunk\","
                              "\"created\":1760000000,\"model\":\"gpt-mock\",\"choices\":[{\"index\":0,\"delta\":{%s"
                              "\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":%s}]%s}\n\n",
                              first ? "\"role\":\"assistant\"," : "", WORDS[i % WORD_COUNT], last ? "\"stop\"" : "null",
                              last ? ",\"usage\":" USAGE : "");
        events[i].length =
            (size_t)snprintf(events[i].text, sizeof events[i].text, "%x\r\n%s\r\n", (unsigned)length, data);
    }
    Event *done = &events[PIECES];
    done->length = (size_t)snprintf(done->text, sizeof done->text, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

/* Connections ------------------------------------------------------------------------------------------------------ */

static void watch(int fd, int operation, unsigned interest) {
    struct epoll_event event = {.events = interest, .data.fd = fd};
    if (epoll_ctl(epoll_fd, operation, fd, &event) < 0) die("epoll_ctl");
}

static void end_stream(Connection *c) {
    if (c->streaming) streams--;
    c->streaming = false;
}

static void close_connection(int fd) {
    Connection *c = &connections[fd];
    end_stream(c);
    c->open = false;
    close(fd);
}

/* Writes what is pending; asks epoll to say when there is room, if the socket does not take all of it. */
static void flush(int fd) {
    Connection *c = &connections[fd];
    while (c->out_length > 0) {
        ssize_t sent = send(fd, c->out, c->out_length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) watch(fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            else close_connection(fd);
            return;
        }
        c->out += sent;
        c->out_length -= (size_t)sent;
    }
}

static void answer(int fd, const char *text, size_t length) {
    connections[fd].out = text;
    connections[fd].out_length = length;
    flush(fd);
}

static bool body_holds(const char *body, size_t length, const char *word) {
    return memmem(body, length, word, strlen(word)) != NULL;
}

/* Length of the first complete request in the buffer; 0: not complete yet. */
static size_t request_length(const Connection *c, size_t *head_length) {
    const char *end = memmem(c->request, c->length, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    *head_length = (size_t)(end - c->request) + 4;
    size_t content = 0;
    bool chunked = false;
    for (const char *line = c->request; line < end;) {
        if (strncasecmp(line, "content-length:", 15) == 0) content = strtoul(line + 15, NULL, 10);
        else if (strncasecmp(line, "transfer-encoding:", 18) == 0) chunked = true;
        const char *next = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        if (next == NULL) break;
        line = next + 2;
    }
    if (chunked) {
        const char *stop = memmem(c->request + *head_length, c->length - *head_length, "0\r\n\r\n", 5);
        return stop == NULL ? 0 : (size_t)(stop - c->request) + 5;
    }
    return c->length < *head_length + content ? 0 : *head_length + content;
}

/* Answers the complete requests in the buffer, one after the other; a stream or a full socket makes the rest wait. */
static void serve_requests(int fd) {
    Connection *c = &connections[fd];
    while (c->open && !c->streaming && c->out_length == 0) {
        size_t head = 0, total = request_length(c, &head);
        if (total == 0) return;
        const char *body = c->request + head;
        size_t length = total - head;
        bool stream = body_holds(body, length, "\"stream\":true") || body_holds(body, length, "\"stream\": true");
        bool slow = stream && body_holds(body, length, "mock20");
        memmove(c->request, c->request + total, c->length - total);
        c->length -= total;
        if (stream) {
            c->streaming = true;
            c->next_event = 0;
            c->delay_us = slow ? SLOW_DELAY_US : default_delay_us;
            c->due_us = now_us() + c->delay_us;
            streams++;
            answer(fd, stream_head, stream_head_length);
        } else {
            answer(fd, completion, completion_length);
        }
    }
}

static void read_requests(int fd) {
    Connection *c = &connections[fd];
    if (c->length == REQUEST_BYTES) { /* larger than anything the benchmarks send */
        close_connection(fd);
        return;
    }
    ssize_t got = recv(fd, c->request + c->length, REQUEST_BYTES - c->length, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        close_connection(fd);
        return;
    }
    c->length += (size_t)got;
    serve_requests(fd);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), on = 1;
        if (fd < 0) return;
        if (fd >= MAX_FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        char *buffer = connections[fd].request; /* kept from an earlier connection with this number */
        if (buffer == NULL && (buffer = malloc(REQUEST_BYTES)) == NULL) die("malloc");
        connections[fd] = (Connection){.request = buffer, .open = true};
        if (fd > highest_fd) highest_fd = fd;
        watch(fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

/* Streams ---------------------------------------------------------------------------------------------------------- */

/* Writes one event of every stream that is due. */
static void advance_streams(void) {
    long long now = now_us();
    for (int fd = 0; fd <= highest_fd; fd++) {
        Connection *c = &connections[fd];
        if (!c->streaming || c->out_length > 0 || c->due_us > now) continue;
        answer(fd, events[c->next_event].text, events[c->next_event].length);
        if (!c->open) continue;
        c->next_event++;
        /* [DONE] follows the last piece at once, as real APIs do. */
        c->due_us = c->next_event == PIECES ? now : c->delay_us ? c->due_us + c->delay_us : now;
        if (c->next_event == EVENTS) {
            end_stream(c);
            serve_requests(fd);
        }
    }
}

/* Waits until a socket is ready or a stream is due (ppoll: epoll_wait knows only milliseconds). */
static void wait_for_work(void) {
    if (streams == 0) return;
    long long first = 1LL << 62;
    for (int fd = 0; fd <= highest_fd; fd++) {
        const Connection *c = &connections[fd];
        if (c->streaming && c->out_length == 0 && c->due_us < first) first = c->due_us;
    }
    if (first == 1LL << 62) first = now_us() + 1000000; /* all wait for their sockets */
    long long left = first - now_us();
    if (left < 0) left = 0;
    struct timespec timeout = {.tv_sec = left / 1000000, .tv_nsec = left % 1000000 * 1000};
    struct pollfd sockets = {.fd = epoll_fd, .events = POLLIN};
    ppoll(&sockets, 1, &timeout, NULL);
}

int main(int count, char **words) {
    if (count < 2) {
        fprintf(stderr, "usage: %s PORT [CHUNK_DELAY_US]\n", words[0]);
        return 2;
    }
    default_delay_us = count > 2 ? atol(words[2]) : 0;
    build_completion();
    build_stream();

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)atoi(words[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (listen(listener, 4096) < 0) die("listen");
    if ((epoll_fd = epoll_create1(0)) < 0) die("epoll_create1");
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);

    struct epoll_event ready[BATCH];
    for (;;) {
        wait_for_work();
        int n = epoll_wait(epoll_fd, ready, BATCH, streams > 0 ? 0 : -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                accept_all(listener);
                continue;
            }
            if (ready[i].events & EPOLLOUT) {
                watch(fd, EPOLL_CTL_MOD, EPOLLIN);
                flush(fd);
                serve_requests(fd);
            }
            if (connections[fd].open && ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_requests(fd);
        }
        if (streams > 0) advance_streams();
    }
}
