/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A client of ovirt-imageio that does nothing but receive: the limit for every client.
 *
 *   range_client SOCKET PATH CONNECTIONS AHEAD < RANGES
 *
 * RANGES has lines "offset length". Each connection is a thread. It takes the ranges in the order of the disk, in runs
 * of AHEAD of them, keeps at most AHEAD requests unanswered and drops the data. Prints the bytes received, and the wall
 * and CPU seconds used, as JSON.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HELD (256 << 10)

struct range {
	unsigned long long offset, length;
};

static struct range *ranges;
static size_t count, next_range;
static unsigned long long received;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *socket_name, *path;
static size_t ahead;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void send_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
		if (sent <= 0)
			fail("send");
		data += sent;
		length -= sent;
	}
}

static void ask(int fd, const struct range *first, size_t many)
{
	static const char format[] = "GET %s HTTP/1.1\r\nHost: localhost\r\nRange: bytes=%llu-%llu\r\n\r\n";
	size_t room = many * (sizeof format + strlen(path) + 40), used = 0;
	char *text = malloc(room);
	if (!text)
		fail("malloc");
	for (size_t i = 0; i < many; i++)
		used += snprintf(text + used, room - used, format, path, first[i].offset,
				 first[i].offset + first[i].length - 1);
	send_all(fd, text, used);
	free(text);
}

/* Receive the head of an answer; held[0..*have] are bytes behind it. */
static void receive_head(int fd, char *held, size_t *have, unsigned long long length)
{
	size_t got = *have;
	char *end;
	for (;;) {
		held[got] = 0;
		end = strstr(held, "\r\n\r\n");
		if (end)
			break;
		ssize_t more = got < 8192 ? recv(fd, held + got, 8192 - got, 0) : 0;
		if (more <= 0)
			fail("no answer");
		got += more;
	}
	*end = 0;
	if (strncmp(held, "HTTP/1.1 206", 12)) {
		fprintf(stderr, "%.100s\n", held);
		exit(1);
	}
	char *field = strcasestr(held, "\ncontent-length:");
	if (!field || strtoull(field + 16, NULL, 10) != length) {
		fprintf(stderr, "an answer of another length\n");
		exit(1);
	}
	size_t used = end + 4 - held;
	*have = got - used;
	memmove(held, end + 4, *have);
}

static void *work(void *unused)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char *held = malloc(HELD + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	size_t have = 0;
	(void)unused;
	snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_name);
	if (!held || connect(fd, (struct sockaddr *)&address, sizeof address))
		fail("connect");
	/* Ranges that were asked for, in a ring of two runs. */
	struct range *waiting = malloc(2 * ahead * sizeof *waiting);
	size_t first = 0, in_flight = 0;
	unsigned long long total = 0;
	int ended = 0;
	if (!waiting)
		fail("malloc");
	for (;;) {
		while (!ended && in_flight <= ahead / 2) {
			size_t run = ahead > 1 ? (ahead + 1) / 2 : 1;
			pthread_mutex_lock(&lock);
			size_t from = next_range, many = count - from < run ? count - from : run;
			next_range += many;
			pthread_mutex_unlock(&lock);
			if (!many) {
				ended = 1;
				break;
			}
			ask(fd, ranges + from, many);
			for (size_t i = 0; i < many; i++)
				waiting[(first + in_flight++) % (2 * ahead)] = ranges[from + i];
			if (ahead == 1)
				break;
		}
		if (!in_flight)
			break;
		unsigned long long left = waiting[first].length;
		total += left;
		first = (first + 1) % (2 * ahead);
		in_flight--;
		receive_head(fd, held, &have, left);
		size_t already = have < left ? have : left;
		have -= already;
		memmove(held, held + already, have);
		left -= already;
		while (left) {
			/* The data of one answer has a place of its own, as in a real client. */
			ssize_t got = recv(fd, held, left < HELD ? left : HELD, 0);
			if (got <= 0)
				fail("recv");
			left -= got;
		}
	}
	close(fd);
	pthread_mutex_lock(&lock);
	received += total;
	pthread_mutex_unlock(&lock);
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	socket_name = argv[1];
	path = argv[2];
	size_t connections = strtoul(argv[3], NULL, 10), room = 0;
	ahead = strtoul(argv[4], NULL, 10);
	struct range one;
	while (scanf("%llu %llu", &one.offset, &one.length) == 2) {
		if (count == room) {
			room = room ? 2 * room : 1024;
			ranges = realloc(ranges, room * sizeof *ranges);
			if (!ranges)
				fail("realloc");
		}
		ranges[count++] = one;
	}
	struct timespec begin, end;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	pthread_t threads[64];
	for (size_t i = 0; i < connections && i < 64; i++)
		if (pthread_create(&threads[i], NULL, work, NULL))
			fail("pthread_create");
	for (size_t i = 0; i < connections && i < 64; i++)
		pthread_join(threads[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &end);
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"received\": %llu, \"wall_s\": %.6f, \"cpu_s\": %.6f}\n", received,
	       end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9,
	       usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
	return 0;
}
